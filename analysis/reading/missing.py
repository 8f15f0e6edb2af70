"""What a table or figure lacks, in words, and the command that makes it. No point is invented."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.reading import commands
from analysis.reading.measures import HELDOUT, Measure
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs

ENOUGH = 3  # seeds, below which an interval says little


def command(sweep: str, runs: Runs, setting: Setting | None, *more: str) -> str:
    """How a sweep is run on a setting, as a sentence's end: ": `COMMAND`"; "" where no run of the
    setting says how it was started.

    setting  None: the sweep's own model and data
    """
    words = (f"sweep={sweep}", *more)
    way = commands.of_setting([], *words) if setting is None else runs.on_setting(setting, *words)
    return f": `{way}`" if way else ""


def objectives(
    runs: Runs, losses: Iterable[str], sweep: str, setting: Setting, *more: str
) -> list[str]:
    """Objectives of which there is no run at all. more: words of the command"""
    present = {run.loss for run in runs}
    way = f"({setting}){command(sweep, runs, setting, *more)}"
    return [f"no run with loss={loss} {way}" for loss in losses if loss not in present]


def iterations(runs: Runs, needed: Sequence[int] | None = None) -> list[str]:
    """Iterations that runs have not finished: of those needed (None: all that they were to do)."""
    lines = []
    for run in runs:
        lacking = set(needed or range(run.iterations)) - {*run.folder.iterations()}
        if lacking:
            longer = max(lacking) >= run.iterations
            more = [f"selfplay.iterations={max(lacking) + 1}"] if longer else []
            lines.append(_line(runs, run, f"iteration {_listed(lacking)}", *more))
    return lines


def numbers(runs: Runs, values: pd.DataFrame, measures: Sequence[Measure]) -> list[str]:
    """Numbers that a run's evaluations lack: benchmarks, and what others of its method have."""
    of_run = values.groupby(["run", "iteration"])["key"].agg(set).to_dict()
    of_method = values.groupby("label")["key"].agg(set).to_dict()
    lines = []
    for run in runs:
        for measure in measures:
            if measure.key in HELDOUT and measure.key not in of_method.get(run.label, set()):
                continue
            done = run.folder.iterations()
            lacking = {t for t in done if measure.key not in of_run.get((run.name, t), set())}
            if lacking:
                what = f"no {measure.title} after iteration {_listed(lacking)}"
                lines.append(_line(runs, run, what))
    return lines


def seeds(runs: Runs, sweep: str, setting: Setting, *more: str) -> list[str]:
    """Methods with fewer seeds than an interval needs. more: words of the command"""
    numbers = {label: len(members) for label, members in runs.by_label().items()}
    few = ", ".join(f"{label} ({n})" for label, n in numbers.items() if n < ENOUGH)
    way = command(sweep, runs, setting, "seed=0,1,2", *more)
    return [f"fewer than {ENOUGH} seeds, so that intervals say little: {few}{way}"] if few else []


def _line(runs: Runs, run: Run, what: str, *more: str) -> str:
    way = runs.resume(run, *more)
    return f"{run.label}, seed {run.seed}: {what}" + (f": `{way}`" if way else "")


def _listed(iterations: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(iterations)))
