"""How far runs are, and which of them live: read from their folders, while they go on. No torch.

Writes nothing. What is done is said by the files of a run (sweep.plan), whether it lives by its
lock, what it is doing by its heartbeat.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tspin.cli import sweep
from tspin.cli.options import Parser, runs_folder
from tspin.cli.sweep import Item, Plan, duration
from tspin.runs import heartbeat
from tspin.runs.artifacts import RunDir, run_dirs
from tspin.runs.heartbeat import Beat
from tspin.runs.point import stored
from tspin.tools.files import is_owned, owned_by, read_json
from tspin.tools.terminal import rate_text, table, terminal_width

STATES = ("running", "waiting", "failed", "dead", "stopped", "not started", "complete")
QUIET = 600.0  # seconds without a unit done, beyond which (and 10 units' time) there is a warning
FIRST_UNIT = 3600.0  # likewise before there is a rate
HELP = """A table of the runs in RUNS, whether they go on or not.

states
  running      a process holds its folder
  waiting      likewise, for what another process makes
  failed       it stopped with an error, which is shown
  dead         it stopped without a word: nobody holds its folder any more
  stopped      it was interrupted; of a run that an older version made: it is not complete
  not started  it has a folder, and no process has said a word there
  complete     nothing is left to do
After failed, dead and stopped the same command goes on where it was."""
EXAMPLES = """\
  python -m tspin status runs/paper
  python -m tspin status runs/paper --json"""


@dataclass(frozen=True)
class Status:
    """One run. Times in seconds; None: not known, or nothing of the kind.

    iteration    that is being played, or was when it stopped
    complete     iterations that are; of how many
    share        of the stage that is done
    rate         units of the stage per second
    stage_left, run_left  estimates at the rate so far, and from finished iterations
    heartbeat    age of the last one
    warnings     sentences for people
    """

    run: str
    folder: str
    state: str
    iteration: int | None
    complete: int
    of: int | None
    stage: str | None
    share: float | None
    rate: float | None
    unit: str | None
    stage_left: float | None
    run_left: float | None
    heartbeat: float | None
    warnings: list[str]


def survey(runs: Path, *, now: float | None = None) -> list[Status]:
    """The runs in a folder of runs (or the run that it is), those that go on first.

    now  seconds since 1970; None: the clock
    Raises ValueError where there is no run.
    """
    folders = [RunDir(runs)] if RunDir(runs).config.exists() else run_dirs(runs)
    if not folders:
        below = [str(inner) for inner in sorted(runs.glob("*/")) if run_dirs(inner)]
        hint = f"; there are runs in {', '.join(below)}" if below else ""
        what = "has no runs in it" if runs.is_dir() else "is no folder"
        raise ValueError(f"{runs} {what}{hint}")
    points = [point for folder in folders if (point := stored(folder)) is not None]
    plan = sweep.plan(str(runs), points)
    items = {item.name: item for item in plan.items}
    clock = time.time() if now is None else now
    statuses = [_status(folder, plan, items.get(folder.path.name), clock) for folder in folders]
    return sorted(statuses, key=lambda status: (STATES.index(status.state), status.run))


def describe(runs: Path, statuses: Sequence[Status], *, width: int) -> str:
    """The table, what is to be said of single runs, and the sum."""
    rows = [
        {
            "run": status.run,
            "state": status.state,
            "iterations": f"{status.complete} of {'?' if status.of is None else status.of}",
            "iteration": status.iteration,
            "stage": status.stage,
            "percent": None if status.share is None else f"{status.share:.0%}",
            "rate": None if not status.rate else rate_text(status.rate, status.unit or "unit"),
            "stage_left": _text(status.stage_left),
            "run_left": _text(status.run_left),
            "heartbeat": None if status.heartbeat is None else f"{duration(status.heartbeat)} ago",
            "warnings": len(status.warnings) or None,
        }
        for status in statuses
    ]
    warnings = [f"{status.run}: {warning}" for status in statuses for warning in status.warnings]
    counts = Counter(status.state for status in statuses)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    total = f"{runs}: {len(statuses)} run{'s' * (len(statuses) != 1)}: {states}"
    parts = [table("Runs", rows, width=width), "\n".join(warnings), total]
    return "\n\n".join(filter(None, parts))


def _status(folder: RunDir, plan: Plan, item: Item | None, now: float) -> Status:
    lives = is_owned(folder.path)
    beat = heartbeat.read(folder)
    if lives and beat is not None and beat.ended is not None:
        beat = None  # of the launch before: this one has not said a word yet
    state = _state(folder, item, beat, lives=lives)
    done = folder.iterations() if item is None else [step.t for step in item.steps if step.done]
    iteration, stage = _place(beat) if state != "complete" else (None, None)
    working = beat if state == "running" and beat is not None and beat.stage is not None else None
    rate = None if working is None else working.rate
    stage_left = max(0.0, (working.total - working.done) / rate) if working and rate else None
    known = beat is not None and beat.total > 0 and state != "complete"
    return Status(
        run=folder.path.name,
        folder=str(folder.path),
        state=state,
        iteration=iteration,
        complete=len(done),
        of=None if item is None else len(item.steps),
        stage=stage if beat is None or beat.waiting is None else f"waits for {beat.waiting}",
        share=beat.done / beat.total if known and beat is not None else None,
        rate=rate,
        unit=None if working is None else working.unit,
        stage_left=stage_left,
        run_left=_run_left(folder, plan, item, iteration, beat, stage_left) if lives else None,
        heartbeat=None if beat is None else max(0.0, now - beat.time),
        warnings=_warnings(folder, beat, state, now),
    )


def _state(folder: RunDir, item: Item | None, beat: Beat | None, *, lives: bool) -> str:
    if lives:
        return "running" if beat is None or beat.waiting is None else "waiting"
    if beat is not None and beat.ended == "failed":
        return "failed"
    all_done = item is not None and all(step.done for step in item.steps)
    if beat is None:
        if item is not None and item.complete:
            return "complete"
        return "stopped" if folder.provenance.exists() else "not started"
    if beat.ended == "complete" and (all_done or item is None):
        return "complete"
    # Killed behind its last stage; benchmarks that a later launch asked for are no part of item.
    if item is not None and item.complete and beat.done >= beat.total:
        return "complete"
    return "dead" if beat.ended is None else "stopped"


def _place(beat: Beat | None) -> tuple[int | None, str | None]:
    """Iteration and stage of "iteration 3: train"; other stages are of none."""
    if beat is None or beat.stage is None:
        return None, None
    match = re.fullmatch(r"iteration (\d+): (.*)", beat.stage)
    return (int(match[1]), match[2]) if match else (None, beat.stage)


def _run_left(
    folder: RunDir,
    plan: Plan,
    item: Item | None,
    iteration: int | None,
    beat: Beat | None,
    stage_left: float | None,
) -> float | None:
    """Time of the iterations to come, from finished ones like them, and what is left of this."""
    if item is None or beat is None:
        return None
    todo = [step for step in item.steps if not step.done and step.source is None]
    if not todo:
        return stage_left
    whole = plan.seconds(todo)
    if whole is None:
        return None
    if todo[0].t != iteration:
        return whole
    out = folder.iteration(todo[0].t)
    try:
        spent = sum(read_json(out.stages).values()) if out.stages.exists() else 0.0
    except (OSError, ValueError):
        spent = 0.0
    spent += beat.done / beat.rate if beat.rate else 0.0
    rest = plan.seconds(todo[1:]) or 0.0
    return max(whole - spent, rest + (stage_left or 0.0))


def _warnings(folder: RunDir, beat: Beat | None, state: str, now: float) -> list[str]:
    if beat is None:
        return []
    warnings = list(beat.warnings.values())
    still = now - beat.moved
    if state == "failed":
        warnings.append(f"failed: {beat.why}")
    elif state == "dead":
        warnings.append(
            f"dead since about {duration(now - beat.time)}: its process "
            f"({owned_by(folder.path)}) left no word; the same command goes on from here"
        )
    elif state == "running" and still > (max(QUIET, 10 / beat.rate) if beat.rate else FIRST_UNIT):
        after = beat.stage or "the start"
        warnings.append(f"nothing has moved for {duration(still)} after {after}")
    return warnings


def _text(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)


# --- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    parser = Parser("status", "[RUNS ...] [--json]", about=HELP, examples=EXAMPLES)
    parser.add_argument(
        "runs", nargs="*", type=runs_folder, default=[Path("runs")], metavar="RUNS",
        help="folders of runs, or single runs (default: runs)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a run and line")
    options = parser.parse_args(arguments)
    for runs in options.runs:
        statuses = survey(runs)
        if options.json:
            text = "".join(json.dumps(asdict(status)) + "\n" for status in statuses)
        else:
            text = f"{describe(runs, statuses, width=terminal_width())}\n"
        sys.stdout.write(text)
