"""Which learning rate each objective takes: the best of one grid, judged on validation prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import Column, Drawing, Piece, Table, of_settings
from analysis.reading import bench, measures, missing
from analysis.reading.measures import Measure
from analysis.reading.methods import Setting
from analysis.reading.runs import Runs
from analysis.reading.stats import bands, error_of_mean, not_told_from

NAMES = ("tuning",)
KEY = "optim.lr"
BY = ["objective", "lr"]


def build(runs: Runs, name: str = "tuning") -> list[Piece]:
    """A table and a figure for every setting of validation prompts."""
    tuned = runs.where(lambda run: run.setting.split == "validation")
    if len(tuned):
        return of_settings(tuned, name, _of_setting)
    only = runs.settings()[0] if len(runs.settings()) == 1 else None
    way = missing.command("tune", runs, only)
    caption = "Learning rates, judged on validation prompts."
    lines = [f"no run on validation prompts{way}"]
    return [_table(name, caption, bands(pd.DataFrame(), BY), [], measures.NOTHING, lines)]


def _of_setting(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    of_rate = runs.where(
        lambda run: (
            all(key == KEY or key.startswith("coef.") for key in run.variant)
            and isinstance(run.values.get(KEY), float)
        )
    )
    chosen = bench.plain(of_rate)
    main = measures.main_of(chosen)
    data = _means(chosen, main)
    rates = sorted(set(data["lr"]))
    lines = missing.iterations(chosen)
    if len(rates) < 3:
        lines.append(f"fewer than three learning rates{missing.command('tune', runs, setting)}")
    caption = (
        f"{main.opening} after the last iteration for each learning rate, "
        f"{setting}: mean over seeds; best of the rates with the most seeds, and how far it is "
        "above its better neighbour; rates that these prompts and seeds do not tell from the best."
    )
    table = _table(name, caption, data, rates, main, lines)
    return [table, Drawing(f"{name}-figure", caption, _drawn(data, main), data)]


def _means(runs: Runs, main: Measure) -> pd.DataFrame:
    """objective, lr, mean, low, high, n: after the last iteration that each run was to do; error:
    of the mean, over seeds and prompts."""
    labels = _labels(runs)
    values = runs.described(
        measures.values(runs, [main]), objective=lambda run: labels[run.name],
        lr=lambda run: run.values[KEY], end=lambda run: run.iterations - 1,
    )  # fmt: skip
    values = values[values["iteration"] == values["end"]].dropna(subset=["value"])
    errors = [
        error_of_mean(group["value"].tolist(), (group["stderr"] * main.factor).tolist())
        for _, group in values.groupby(BY, sort=False)
    ]
    return bands(values, BY).assign(error=errors)


def _labels(runs: Runs) -> dict[str, str]:
    """Run -> its objective, and coefficients that the objective is tuned in."""
    labels = {}
    for label, members in runs.grouped(lambda run: str(run.values["loss.label"])).items():
        coefficients = {key for run in members for key in run.method if key.startswith("coef.")}
        tuned = sorted(
            key for key in coefficients if len({str(run.method.get(key)) for run in members}) > 1
        )
        for run in members:
            words = [f"{key.removeprefix('coef.')}={run.method.get(key)}" for key in tuned]
            labels[run.name] = " ".join([label, *words])
    return labels


def _table(
    name: str, caption: str, data: pd.DataFrame, rates: list[float], main: Measure,
    lines: list[str],
) -> Table:  # fmt: skip
    """A row for each objective, a column for each rate; then the best and where it lies."""
    columns = (
        Column("label", "method"), Column("seeds", "seeds"),
        *(Column(f"{rate:g}", f"{rate:g}", main.digits) for rate in rates),
        Column("best", "best"), Column("above", "above its neighbour", main.digits, signed=True),
        Column("where", "in the grid"), Column("alike", "not told from the best"),
    )  # fmt: skip
    rows = []
    for objective in style.in_order(data["objective"]):
        own = data[data["objective"] == objective].set_index("lr")
        means = own["mean"].reindex(rates)
        values = means * main.better
        best = _best(own, main)
        above = values[best] - np.fmax(values.shift(1), values.shift(-1))[best]
        where = "on the edge: widen the grid" if best in (rates[0], rates[-1]) else "inside"
        alike = not_told_from(best, own["mean"].to_dict(), own["error"].to_dict())
        others = ", ".join(f"{rate:g}" for rate in sorted(alike)) or "none"
        rows.append([objective, int(own["n"].max()), *means, f"{best:g}", above, where, others])
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    return Table(name, caption, columns, frame, missing=lines)


def _best(own: pd.DataFrame, main: Measure) -> float:
    """The best of an objective's rates that were run with the most seeds. own: mean and n, by lr"""
    most = own[own["n"] == own["n"].max()]
    return float((main.better * most["mean"]).idxmax())


def _drawn(data: pd.DataFrame, main: Measure) -> style.Figure:
    drawn, axes = style.one_panel((4.2, 3.0), empty=data.empty)
    if data.empty:
        return drawn
    strokes = style.strokes(data["objective"])
    for objective in style.in_order(data["objective"]):
        line = data[data["objective"] == objective].sort_values("lr").astype({"lr": float})
        colour = style.colour(objective)
        axes.plot(line["lr"].to_numpy(), line["mean"].to_numpy(), label=objective, color=colour,
                  marker=style.marker(objective), linestyle=strokes[objective])  # fmt: skip
        best = _best(line.set_index("lr"), main)
        mean = line.loc[line["lr"] == best, "mean"]
        axes.plot([best], mean, "o", markersize=10, fillstyle="none", color=colour)
    style.logarithmic(axes, data["lr"])
    axes.set(xlabel="learning rate", ylabel=main.axis)
    style.legend(drawn, columns=3)
    return drawn
