"""Which learning rate each objective takes: the best of one grid, judged on validation prompts."""

from __future__ import annotations

import math

import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import Column, Drawing, Piece, Table
from analysis.reading import measures, missing
from analysis.reading.measures import Measure
from analysis.reading.runs import Run, Runs, Setting
from analysis.reading.stats import bands

NAMES = ("tuning",)
KEY = "optim.lr"
SPLIT = "validation"
FIRST = ("label", "seeds")
LAST = ("best", "above", "where")


def build(runs: Runs, name: str = "tuning", *, with_paper: bool = False) -> list[Piece]:
    """A table and a figure for every setting of validation prompts. with_paper adds nothing."""
    settings = [setting for setting in runs.settings() if setting.split == SPLIT]
    if not settings:
        way = missing.command("tune", runs.settings()[0] if len(runs.settings()) == 1 else None)
        empty = pd.DataFrame(columns=[*FIRST, *LAST])
        caption = "Learning rates, judged on validation prompts."
        lines = (f"no run on validation prompts: {way}",)
        return [Table(name, caption, _columns([], None), empty, missing=lines)]
    pieces: list[Piece] = []
    for setting in settings:
        named = name if len(settings) == 1 else f"{name}-{setting.slug}"
        pieces += _of_setting(runs.of(setting), setting, named)
    return pieces


def _of_setting(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    chosen = runs.where(lambda run: run.differs_only_in(KEY) and isinstance(_rate(run), float))
    main = measures.main_number(measures.columns(chosen))
    data = _means(chosen, main) if main else pd.DataFrame(columns=["objective", "lr", "mean", "n"])
    rates = sorted(set(data["lr"]))
    lines = missing.iterations(chosen)
    if len(rates) < 3:
        lines.append(f"fewer than three learning rates: {missing.command('tune', _test(setting))}")
    caption = (
        f"{measures.opening(main)} after the last iteration for each learning rate, "
        f"{setting}: mean over seeds; best, and how far it is above its better neighbour."
    )
    frame = _rows(data, rates, main) if main else pd.DataFrame(columns=[*FIRST, *LAST])
    table = Table(name, caption, _columns(rates, main), frame, missing=tuple(lines))
    return [table, Drawing(f"{name}-figure", caption, _drawn(data, main), data)]


def _means(runs: Runs, main: Measure) -> pd.DataFrame:
    """objective, lr, mean, low, high, n: after the last iteration that each run was to do."""
    by_run = {run.name: run for run in runs}
    found = measures.values(runs, [main])
    ends = [int(by_run[name].values["selfplay.iterations"]) - 1 for name in found["run"]]
    found = found[found["iteration"] == ends]
    found = found.assign(
        objective=[by_run[name].values["loss.label"] for name in found["run"]],
        lr=[_rate(by_run[name]) for name in found["run"]],
    )
    return bands(found, ["objective", "lr"])


def _rows(data: pd.DataFrame, rates: list[float], main: Measure) -> pd.DataFrame:
    rows = []
    for objective in style.in_order(list(data["objective"])):
        own = data[data["objective"] == objective].set_index("lr")
        values = own["mean"].reindex(rates) * main.better
        best = float(values.idxmax())
        at = rates.index(best)
        beside = values.iloc[[i for i in (at - 1, at + 1) if 0 <= i < len(rates)]]
        rows.append(
            {"label": objective, "seeds": int(own["n"].max())}
            | {f"{rate:g}": own["mean"].get(rate, math.nan) for rate in rates}
            | {
                "best": f"{best:g}",
                "above": float(values[best] - beside.max()) if len(beside) else math.nan,
                "where": "inside" if 0 < at < len(rates) - 1 else "on the edge: widen the grid",
            }
        )
    return pd.DataFrame(rows)


def _columns(rates: list[float], main: Measure | None) -> tuple[Column, ...]:
    digits = main.digits if main else 2
    return (
        Column("label", "method"),
        Column("seeds", "seeds"),
        *(Column(f"{rate:g}", f"{rate:g}", digits) for rate in rates),
        Column("best", "best"),
        Column("above", "above its neighbour", digits, signed=True),
        Column("where", "in the grid"),
    )


def _drawn(data: pd.DataFrame, main: Measure | None) -> style.Figure:
    drawn = style.figure(1, 1, panel=(4.2, 3.0))
    (axes,) = drawn.axes
    if data.empty or main is None:
        style.blank(axes, "no runs")
        return drawn
    for objective in style.in_order(list(data["objective"])):
        line = data[data["objective"] == objective].sort_values("lr")
        axes.plot(
            line["lr"].to_numpy(float), line["mean"].to_numpy(float), label=objective,
            color=style.colour(objective), marker=style.marker(objective),
        )  # fmt: skip
        best = line.loc[(main.better * line["mean"]).idxmax()]
        axes.plot(best["lr"], best["mean"], "o", markersize=10, fillstyle="none",
                  color=style.colour(objective))  # fmt: skip
    style.logarithmic(axes, data["lr"])
    axes.set_xlabel("learning rate")
    axes.set_ylabel(main.axis)
    style.legend(drawn, columns=3)
    return drawn


def _rate(run: Run) -> object:
    return run.values.get(KEY)


def _test(setting: Setting) -> Setting:
    """The sweep names the split itself."""
    return setting._replace(split="test")
