"""Runs taken away, with what of the shared work no other run has. No torch.

What runs share lies in proto/ and base/ of runs_dir and is linked into each run's folder, so a run
that stays loses nothing.
"""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path

from tspin.config.run import SHARED
from tspin.runs.artifacts import RunDir, run_dirs
from tspin.runs.point import stored
from tspin.tools.files import is_owned, owner, remove


def check(folders: Sequence[RunDir]) -> None:
    """ValueError for a run that lives, or that an unfinished run begins from (start_from)."""
    paths = {folder.path.resolve() for folder in folders}
    for folder in folders:
        if is_owned(folder.path):
            raise ValueError(f"{folder.path} is running; stop it first")
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
