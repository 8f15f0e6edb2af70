"""The numbers of a run in the terminal: the main ones, or all that its files hold.

    python -m analysis show RUN [--all]

A line per number, a column per policy, the initial one first. --all: every held-out number and
benchmark, contingency counts, means of the steps' metrics, seconds of the stages.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.options import command, named


def main(arguments: Sequence[str]) -> None:
    with command(__doc__, named(arguments, "run"), run="", all="false") as options:
        if not options["run"]:
            raise ValueError("run= is missing: the folder of a run, runs/NAME")
        sys.stdout.write(text(Path(options["run"]).expanduser(), every=options["all"] == "true"))


def text(folder: Path, *, every: bool = False) -> str:
    """What is printed. ValueError where there is no run that can be read."""
    from analysis.figures import change, style  # pandas: not for --help
    from analysis.reading.runs import BASE, Runs
    from analysis.report import run_page

    runs = Runs.read_one(folder)
    (run,) = runs
    changed = change.of(runs, [run])
    lines = [f"{run.name}: {changed or 'nothing measured yet'}"]
    alerts = run_page.alerts(runs, run, run_page.status_of(run))
    lines += [f"  {line}" for line in alerts.values()]
    table = run_page.iterations(runs, run)
    if not every:
        rows = [list(row) for row in zip(table["head"], *table["rows"], strict=True)]
        return "\n".join([*lines, "", *_aligned(rows), ""])
    policies = [t for t in (BASE, *run.folder.iterations())]
    numbers: dict[str, dict[int, Any]] = {}
    for t in policies:
        for key, value in _numbers(run.folder.base if t == BASE else run.folder.iteration(t)):
            numbers.setdefault(key, {})[t] = value
    head = ["iteration", *map(style.iteration, policies)]
    rows = [[key, *(_shown(of.get(t)) for t in policies)] for key, of in numbers.items()]
    return "\n".join([*lines, "", *_aligned([head, *rows]), ""])


def _numbers(out: Any) -> list[tuple[str, Any]]:
    """(name, value) of all that the files of an iteration hold."""
    from tspin.runs.metrics import StepLog
    from tspin.tools.files import flatten, read_json

    pairs: list[tuple[str, Any]] = []
    for file in (out.evaluation, out.contingency, out.done):
        values = flatten(read_json(file)) if file.exists() else {}
        pairs += [(key, value) for key, value in values.items() if isinstance(value, int | float)]
    if out.metrics.exists():
        steps = StepLog.read(out.metrics)
        keys = dict.fromkeys(key for row in steps for key in row)
        for key in (key for key in keys if key not in ("iteration", "step", "epoch", "progress")):
            numbers = [row[key] for row in steps if key in row]
            pairs.append((f"steps, mean: {key}", sum(numbers) / len(numbers)))
    return pairs


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
