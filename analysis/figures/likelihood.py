"""What training forgets: log pi of the responses of other pairs, before and after it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import Column, Piece, Table, of_settings, spread
from analysis.reading import stats
from analysis.reading.methods import Setting
from analysis.reading.runs import Runs

NAME = "likelihood"
COLUMNS = (
    Column("label", "method"), Column("seeds", "seeds"),
    Column("start", "initial policy (nats a token)", 3),
    Column("end", "after the last iteration (nats a token)", 3, 1),
    Column("over", "change (nats a token)", 3, signed=True),
)  # fmt: skip


def build(runs: Runs, file: Path) -> list[Piece]:
    """A table for every setting.

    file  as `python -m tspin likelihood out=FILE.csv` leaves it, of these runs
    """
    rows = pd.read_csv(file)
    return of_settings(runs, NAME, lambda part, at, named: [_of_setting(part, at, named, rows)])


def _of_setting(runs: Runs, setting: Setting, name: str, rows: pd.DataFrame) -> Table:
    methods, lines = runs.by_label(), []
    frame = []
    for label in style.in_order(methods):
        names = {run.name for run in methods[label]}
        of_method = rows[rows["run"].isin(names) & (rows["iteration"] != "base")]
        start = rows[rows["run"].isin(names) & (rows["iteration"] == "base")]
        last = of_method.astype({"iteration": int}).sort_values("iteration").groupby("run").tail(1)
        if lacking := names - {*last["run"]}:
            lines.append(f"not scored: {', '.join(sorted(lacking))}")
        frame.append({
            "label": label, "seeds": len(last), "start": start["logp_per_token"].mean(),
            **spread("end", stats.mean_interval(last["logp_per_token"].to_numpy())),
            **spread("over", stats.mean_interval(last["difference"].to_numpy())),
        })  # fmt: skip
    caption = (
        f"Log-likelihood of the responses of {_counted(rows)} other pairs, which nothing was "
        f"trained on, {setting}. Mean and 95% interval over seeds."
    )
    return Table(name, caption, COLUMNS, pd.DataFrame(frame), missing=lines)


def _counted(rows: pd.DataFrame) -> str:
    return " or ".join(str(n) for n in sorted({*rows["n"]}))
