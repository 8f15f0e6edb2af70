"""Table 3: the benchmarks, their few-shot examples and metrics: as configured, and as runs had
them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from analysis.figures.pieces import Column, Piece, Table
from analysis.reading import measures, missing, paper
from analysis.reading.runs import Runs

NAMES = ("table3",)
CONFIGURED = Path(__file__).parents[2] / "conf" / "evals" / "paper.yaml"
COLUMNS = (
    Column("task", "task"),
    Column("benchmark", "lm-eval"),
    Column("num_fewshot", "shots"),
    Column("metric", "metric"),
    Column("shots_had", "shots in these runs"),
    Column("n", "examples"),
    Column("version", "version"),
)


def build(
    runs: Runs, name: str = "table3", *, with_paper: bool = False, configured: Path = CONFIGURED
) -> list[Piece]:
    """configured: a file of conf/evals; its tasks are the rows, with others that runs had."""
    tasks = yaml.safe_load(configured.read_text(encoding="utf-8"))["tasks"] if (
        configured.exists()) else {}  # fmt: skip
    numbers = runs.evaluation
    had = numbers[numbers["part"] == "benchmark"].drop_duplicates("task").set_index("task")
    rows = []
    for task in dict.fromkeys([*tasks, *had.index]):
        how, seen = tasks.get(task, {}), had.loc[task] if task in had.index else {}
        rows.append(
            {
                "task": measures.TASKS.get(task, task),
                "benchmark": task,
                "num_fewshot": how.get("shots"),
                "metric": how.get("metric"),
                "shots_had": seen.get("num_fewshot"),
                "n": seen.get("n"),
                "version": seen.get("version"),
            }
        )
    lines = [
        f"no run was evaluated on {row['benchmark']}: "
        f"{missing.command('table1', None, 'evals=paper')}"
        for row in rows
        if row["shots_had"] is None and row["n"] is None
    ]
    if not rows:
        lines = [
            f"no benchmark configured or run: {missing.command('table1', None, 'evals=paper')}"
        ]
    frame = pd.DataFrame(rows, columns=[column.key for column in COLUMNS], dtype=object)
    found: list[Piece] = [
        Table(name, "Benchmarks, as configured and as these runs had them.", COLUMNS, frame,
              missing=tuple(lines))
    ]  # fmt: skip
    if with_paper:
        printed = paper.table("table3")
        columns = (*COLUMNS[:4], Column("note", "note"))
        caption = f"Benchmarks, as the paper prints them ({paper.SOURCE})."
        found.append(Table(f"{name}-paper", caption, columns, printed))
    return found
