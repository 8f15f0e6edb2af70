"""What a table or figure lacks, in words, and the command that makes it. No point is invented."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.reading.measures import HELDOUT, Measure
from analysis.reading.runs import Runs, Setting

BUILT_IN = {"micro": "micro", "micro_base": "micro", "zephyr": "ultrachat", "mistral": "ultrachat"}
ENOUGH = 3  # seeds, below which an interval says little


def command(sweep: str, setting: Setting | None, *more: str) -> str:
    """The command line of a sweep on a setting; None: the sweep's own model and data."""
    chosen = []
    if setting:
        chosen.append(f"model={setting.model}")
        if BUILT_IN.get(setting.model) != setting.data:
            chosen.append(f"data={setting.data}")
        if setting.split != "test":
            chosen.append(f"data.eval_split={setting.split}")
    return "`" + " ".join(["python main.py -m", f"+sweep={sweep}", *chosen, *more]) + "`"


def objectives(
    runs: Runs, losses: Iterable[str], sweep: str, setting: Setting, *more: str
) -> list[str]:
    """Objectives of which there is no run at all. more: words of the command"""
    there = {run.loss for run in runs}
    return [
        f"no run with loss={loss} ({setting}): {command(sweep, setting, *more)}"
        for loss in losses
        if loss not in there
    ]


def iterations(runs: Runs, needed: Sequence[int] | None = None) -> list[str]:
    """Iterations that runs have not finished: of those needed (None: all that they were to do)."""
    lines = []
    for run in runs:
        planned = needed or range(int(run.values.get("selfplay.iterations", 0)))
        lacking = [str(t) for t in planned if t not in run.folder.iterations()]
        if lacking:
            lines.append(
                f"{run.label}, seed {run.seed}: iteration {', '.join(lacking)}: "
                f"`{runs.resume(run)}`" + (" with more selfplay.iterations" if needed else "")
            )
    return lines


def numbers(runs: Runs, found: pd.DataFrame, measures: Sequence[Measure]) -> list[str]:
    """Numbers that a run's evaluations lack: benchmarks, and what others of its method have."""
    lines = []
    have = found.groupby(["run", "iteration"])["key"].agg(set).to_dict()
    ever = found.groupby("label")["key"].agg(set).to_dict()
    for run in runs:
        due = [m for m in measures if m.key not in HELDOUT or m.key in ever.get(run.label, set())]
        for measure in due:
            done = run.folder.iterations()
            lacking = [str(t) for t in done if measure.key not in have.get((run.name, t), set())]
            if lacking:
                lines.append(
                    f"{run.label}, seed {run.seed}: no {measure.title} after iteration "
                    f"{', '.join(lacking)}: `{runs.resume(run)}`"
                )
    return lines


def seeds(runs: Runs, sweep: str, setting: Setting, *more: str) -> list[str]:
    """Methods with fewer seeds than an interval needs. more: words of the command"""
    by_label: dict[str, int] = {}
    for run in runs:
        by_label[run.label] = by_label.get(run.label, 0) + 1
    few = [f"{label} ({n})" for label, n in by_label.items() if n < ENOUGH]
    if not few:
        return []
    way = command(sweep, setting, "seed=0,1,2", *more)
    return [f"fewer than {ENOUGH} seeds, so that intervals say little: {', '.join(few)}: {way}"]
