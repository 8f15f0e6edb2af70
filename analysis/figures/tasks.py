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
    tasks = {}
    if configured.exists():
        tasks = yaml.safe_load(configured.read_text(encoding="utf-8"))["tasks"]
    numbers = runs.evaluation
    had = numbers[numbers["part"] == "benchmark"].drop_duplicates("task").set_index("task")
    rows, way = [], missing.command("table1", None, "evals=paper")
    for task in dict.fromkeys([*tasks, *had.index]):
        of_conf, of_runs = tasks.get(task, {}), had.loc[task] if task in had.index else {}
        rows.append(
            {
                "task": measures.TASKS.get(task, task),
                "benchmark": task,
                "num_fewshot": of_conf.get("shots"),
                "metric": of_conf.get("metric"),
                "shots_had": of_runs.get("num_fewshot"),
                "n": of_runs.get("n"),
                "version": of_runs.get("version"),
            }
        )
    lines = [
        f"no run was evaluated on {row['benchmark']}: {way}"
        for row in rows
        if row["shots_had"] is None and row["n"] is None
    ]
    lines = lines if rows else [f"no benchmark configured or run: {way}"]
    frame = pd.DataFrame(rows, columns=[column.key for column in COLUMNS], dtype=object)
    caption = "Benchmarks, as configured and as these runs had them."
    pieces: list[Piece] = [Table(name, caption, COLUMNS, frame, missing=tuple(lines))]
    if with_paper:
        caption = f"Benchmarks, as the paper prints them ({paper.SOURCE})."
        columns = (*COLUMNS[:4], Column("note", "note"))
        pieces.append(Table(f"{name}-paper", caption, columns, paper.table("table3")))
    return pieces
