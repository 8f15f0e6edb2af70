"""Table 3: the benchmarks, their few-shot examples and metrics: as configured, and as runs had
them."""

from __future__ import annotations

import pandas as pd
import yaml

from analysis.figures.pieces import Column, Piece, Table
from analysis.reading import measures, missing, paper
from analysis.reading.runs import Runs
from tspin.cli.folders import CONF

NAMES = ("table3",)
CONFIGURED = CONF / "evals" / "paper.yaml"
COLUMNS = (
    Column("task", "task"), Column("benchmark", "lm-eval"), Column("num_fewshot", "shots"),
    Column("metric", "metric"), Column("shots_had", "shots in these runs"),
    Column("n", "examples"), Column("version", "version"),
)  # fmt: skip


def build(runs: Runs, name: str = "table3", *, with_paper: bool = False) -> list[Piece]:
    """The tasks of CONFIGURED are the rows, with others that runs had."""
    tasks = yaml.safe_load(CONFIGURED.read_text(encoding="utf-8"))["tasks"]
    numbers = runs.evaluation
    had = numbers[numbers["part"] == "benchmark"].drop_duplicates("key").set_index("key")
    rows, lines, way = [], [], missing.command("table1", runs, None, "evals=paper")
    for task in dict.fromkeys([*tasks, *had.index]):
        of_conf, of_runs = tasks.get(task, {}), had.loc[task] if task in had.index else {}
        facts = [of_runs.get(key) for key in ("num_fewshot", "n", "version")]
        title = measures.TASKS.get(task, task)
        rows.append([title, task, of_conf.get("shots"), of_conf.get("metric"), *facts])
        if facts[:2] == [None, None]:
            lines.append(f"no run was evaluated on {task}{way}")
    frame = pd.DataFrame(rows, columns=[column.key for column in COLUMNS], dtype=object)
    caption = "Benchmarks, as configured and as these runs had them."
    pieces: list[Piece] = [Table(name, caption, COLUMNS, frame, missing=lines)]
    if with_paper:
        caption = f"Benchmarks, as the paper prints them ({paper.SOURCE})."
        columns = (*COLUMNS[:4], Column("note", "note"))
        pieces.append(Table(f"{name}-paper", caption, columns, paper.table("table3")))
    return pieces
