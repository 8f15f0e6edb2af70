"""The paper's own numbers, transcribed with their source and their inconsistencies marked.

Facts of arXiv 2601.08198 in published/: table1, table2 and table4 (a row per method and
iteration), table3 (shots and metrics), figure4a (the points that its text gives). No seeds, no
errors: the paper reports none.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.reading.measures import AVERAGE, TASKS
from analysis.reading.runs import BASE

FOLDER = Path(__file__).parent / "published"
SOURCE = "arXiv 2601.08198"
LOSSES = ("sft", "spin", "tspin", "tspin_ref", "wo_ha")  # its objectives, as loss=NAME
LABELS = {"SFT": "SFT (200k, 2 epochs)"}
PAIRS, USUAL_PAIRS = {LABELS["SFT"]: 200_000}, 50_000


def table(name: str) -> pd.DataFrame:
    """The transcribed rows of one table, as they are printed."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def values(name: str) -> pd.DataFrame:
    """The numbers of a table in the shape of `measures.values`: one "seed", percent as printed.

    SFT, which has no iterations, stands at iteration 0; the base model begins every method.
    """
    printed = table(name)
    keys = {title: task for task, title in TASKS.items()} | {"avg_printed": AVERAGE}
    long = printed.melt(["method", "iteration"], list(keys), "title", "value")
    long["key"] = long["title"].map(keys)
    long["label"] = long["method"].map(lambda method: LABELS.get(method, method))
    base = long["method"] == "base"
    methods = long[~base].assign(iteration=long["iteration"].fillna(0).astype(int))
    starts = [long[base].assign(label=label, iteration=BASE) for label in methods["label"].unique()]
    rows = pd.concat([*starts, methods], ignore_index=True)
    rows = rows.assign(seed=0, run=rows["label"], iteration=rows["iteration"].astype(int))
    return rows[["label", "seed", "run", "iteration", "key", "value"]]


def notes(name: str) -> tuple[str, ...]:
    """What does not agree with itself in a table as printed."""
    printed = table(name).dropna(subset=["note"])
    return tuple(
        f"{row.method}{'' if pd.isna(row.iteration) else f' iteration {int(row.iteration)}'}: "
        f"{row.note}"
        for row in printed.itertuples()
    )
