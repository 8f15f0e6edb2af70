"""W&B runs rebuilt from run folders that were tracked offline, or not at all.

    python -m analysis wandb_sync runs=RUNS [mode=online|offline] [project= entity= out=FOLDER]

runs: a folder of runs, or one run. Each becomes one W&B run, with the name, group, tags and
configuration that it has live, and an id that is a function of what it says: the same content is
not uploaded twice, and a run that was tracked live is never written into. mode=offline leaves
folders in `out` for `wandb sync`. A run that cannot be read is named; the others still go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partialmethod
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from analysis.options import command
from tspin.runs.artifacts import RunDir, run_dirs
from tspin.tools.files import digest, read_json, remove, write_json
from tspin.tools.spelling import unknown
from tspin.tracking import replay
from tspin.tracking.tracker import Tracker
from tspin.tracking.view import Backend, Identity
from tspin.tracking.wandb import AlreadyThere, Wandb, logged_in

log = logging.getLogger("tspin")

Mode = Literal["online", "offline"]
MODES: tuple[Mode, ...] = ("online", "offline")
DEFAULTS = {"runs": "runs", "mode": "online", "project": "", "entity": "", "out": "report/wandb"}
WHERE = ("project", "entity")  # parts of an Identity that say nothing about the run


class Content:
    """The View that only takes note: how many rows there are, and a digest of them all."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.digest = ""

    def _note(self, kind: str, *call: Any) -> None:
        self.num_rows += 1
        self.digest = digest([self.digest, kind, *call])

    log_step = partialmethod(_note, "step")
    log_iteration = partialmethod(_note, "iteration")
    log_contingency = partialmethod(_note, "contingency")
    log_histograms = partialmethod(_note, "histograms")
    log_samples = partialmethod(_note, "samples")
    log_evaluation = partialmethod(_note, "evaluation")
    alert = partialmethod(_note, "alert")


def sync(folder: RunDir, identity: Identity, *, mode: Mode, out: Path) -> str:
    """One W&B run of one run folder. -> what became of it, in words

    Everything is read before anything is written: a ValueError names a file that is not readable.
    """
    content = Content()
    complete = replay.run(folder, content)
    if not content.num_rows:
        return "nothing to tell yet"
    run_id = id_of(folder, identity, content)
    place = out / mode / run_id
    written = place / "synced.json"
    if mode == "offline" and written.exists():
        return f"already in {place}"
    if mode == "offline":
        remove(place)  # left by a process that was killed
    begun = place.exists()
    try:
        backend = Wandb(identity, mode=mode, folder=place, run_id=run_id, resume="never")
        return tell(folder, identity, backend, complete=complete, written=written)
    except AlreadyThere as error:
        if not begun:
            remove(place)  # sent from elsewhere
        elif not written.exists():
            return f"its upload was interrupted; the rest: wandb sync {place}/wandb/run-*"
        return str(error)


def tell(
    folder: RunDir, identity: Identity, backend: Backend, *, complete: bool, written: Path
) -> str:
    """A run to a tracker, from its files; a failure travels. -> what became of it, in words

    written  a note that it has been done
    """
    with Tracker([backend], strict=True) as tracker:
        replay.run(folder, tracker)
        tracker.finish(exit_code=0 if complete else 1)
    write_json(written, {"name": identity.name})
    return "synced" if complete else "synced as far as it is: the run is not complete"


def main(arguments: Sequence[str]) -> None:
    with command(__doc__, arguments, **DEFAULTS) as options:
        mode = next((mode for mode in MODES if mode == options["mode"]), None)
        if mode is None:
            raise ValueError(unknown(f"option mode={options['mode']}", options["mode"], MODES))
        if mode == "online" and not logged_in():
            raise ValueError("no login: run `wandb login`, or use mode=offline")
        where: dict[str, Any] = {key: options[key] for key in WHERE if options[key]}

        def one(folder: RunDir) -> str:
            identity = replace(replay.identity(folder), **where)
            return sync(folder, identity, mode=mode, out=Path(options["out"]))

        each_run(options["runs"], one)


def each_run(runs: str, sync_one: Callable[[RunDir], str]) -> None:
    """Of a folder of runs, or of one run. ValueError in the end where some could not be synced."""
    given = RunDir(Path(runs))
    folders = [given] if given.config.exists() else run_dirs(given.path)
    if not folders:
        raise ValueError(f"no run in runs={given.path}")
    num_failed = 0
    for folder in tqdm(folders, "runs", disable=None, leave=False):
        try:
            log.info("%s: %s", folder.path.name, sync_one(folder))
        # Whatever is wrong with one run, or with a tracker meanwhile, the others still go.
        except Exception as error:
            num_failed += 1
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            log.error("%s: error: %s%s", folder.path.name, kind, error)
    if num_failed:
        raise ValueError(f"{num_failed} of {len(folders)} runs were not synced")


def id_of(folder: RunDir, identity: Identity, content: Content) -> str:
    """A function of what is sent, so that it is sent once; never the id of the live run."""
    live = "files"
    if folder.tracking.exists():
        with replay.reading(folder.tracking):
            live = read_json(folder.tracking)["id"]
    facts = {key: value for key, value in asdict(identity).items() if key not in WHERE}
    return f"{live}-{digest([facts, content.digest])[:12]}"
