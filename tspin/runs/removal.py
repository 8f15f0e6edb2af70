"""Runs taken away, with what of the shared work no other run has. No torch.

What runs share lies in proto/ and base/ of runs_dir and is linked into each run's folder, so a run
that stays loses nothing. A multirun that goes on keeps its points: a note in runs_dir names them,
and whether the multirun lives its lock says, so that a note of one that was killed holds nothing.
"""

from __future__ import annotations

import filecmp
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tspin.config.run import SHARED
from tspin.runs.artifacts import RunDir, run_dirs
from tspin.runs.point import stored
from tspin.tools.files import is_owned, owned_by, owner, read_json, remove, write_json

MULTIRUNS, POINTS = ".multiruns", "points.json"  # in runs_dir; in a folder of each there


def check(folders: Sequence[RunDir]) -> None:
    """ValueError for a run that lives, that is a point of a multirun that lives, or that an
    unfinished run begins from (start_from)."""
    paths = {folder.path.resolve() for folder in folders}
    for folder in folders:
        if is_owned(folder.path):
            raise ValueError(f"{folder.path} is running; stop it first")
        multirun = holder(folder.path)
        if multirun is not None:
            raise ValueError(
                f"{folder.path} is a point of a multirun that goes on ({multirun}); stop it first"
            )
        for other in run_dirs(folder.path.parent):
            point = None if other.path.resolve() in paths else stored(other)
            begins = point.run.selfplay.start_from if point is not None else None
            if point is None or begins is None:
                continue
            first = other.iteration(point.iterations.start)
            if Path(begins).expanduser().resolve().parent == folder.path.resolve():
                if not first.done.exists():
                    raise ValueError(
                        f"{other.path.name} begins from {folder.path.name} "
                        "(selfplay.start_from) and is not that far: remove or finish it first"
                    )


def remove_run(folder: RunDir) -> tuple[list[Path], dict[Path, str]]:
    """Removes a run. -> shared folders that went with it, and those that stayed, each with why

    In an order in which a kill leaves what can be removed again, and what no run links from.
    """
    shared = [path for path in _shared(folder.path.parent) if _is_of(path, folder)]
    with owner(folder.path):
        for t in folder.iterations():
            remove(folder.iteration(t).done)
        for entry in list(folder.path.iterdir()):
            if entry != folder.config:
                remove(entry)
        remove(folder.path)
    gone, stayed = [], dict[Path, str]()
    others = run_dirs(folder.path.parent)
    for path in shared:
        users = [other.path.name for other in others if _is_of(path, other)]
        if is_owned(path):
            stayed[path] = "a run is making or linking it"
        elif users:
            stayed[path] = f"{users[0]} has it too"
        else:
            remove(path)
            gone.append(path)
    return gone, stayed


@contextmanager
def holding(folders: Iterable[Path]) -> Iterator[None]:
    """Inside, these run folders, begun or not, are points of this process's multirun."""
    names: dict[Path, list[str]] = {}
    for folder in folders:
        names.setdefault(folder.parent, []).append(folder.name)
    with ExitStack() as stack:
        for runs_dir, points in names.items():
            # Written under the lock: where there are points and nobody holds them, it was killed.
            for note in _notes(runs_dir):
                if not is_owned(note):
                    remove(note)
            note = runs_dir / MULTIRUNS / f"{socket.gethostname()}-{os.getpid()}"
            stack.callback(remove, note)
            stack.enter_context(owner(note))
            write_json(note / POINTS, {"points": points})
        yield


def holder(folder: Path) -> str | None:
    """Process and machine of a live multirun of which the run in `folder` is a point."""
    for note in _notes(folder.parent):
        with suppress(FileNotFoundError):  # it has ended meanwhile
            if is_owned(note) and folder.name in read_json(note / POINTS)["points"]:
                return owned_by(note)
    return None


def _notes(runs_dir: Path) -> list[Path]:
    return [points.parent for points in sorted((runs_dir / MULTIRUNS).glob(f"*/{POINTS}"))]


def _shared(runs_dir: Path) -> list[Path]:
    return [path for kind in SHARED for path in sorted((runs_dir / kind).glob("*/"))]


def _is_of(shared: Path, folder: RunDir) -> bool:
    """Whether a run has a file of a shared folder: the same one, or a copy of it."""
    own = folder.path / shared.parent.name
    for file in shared.rglob("*"):
        linked = own / file.relative_to(shared)
        if file.is_file() and not file.name.startswith(".") and linked.is_file():
            if linked.samefile(file) or filecmp.cmp(linked, file, shallow=False):
                return True
    return False
