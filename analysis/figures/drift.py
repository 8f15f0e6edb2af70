"""Data that shift: what a policy is worth on the rows of its time and on those of times before.

Its time is the part of the data that the iteration trained on for the first time. Regret is
dynamic: the sum over the iterations of how far the policy is below the best that any run here was
ever seen to be on that part (mean over seeds), before or after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.comparison import right
from analysis.figures.pieces import Column, Drawing, Piece, Table, of_settings, spread
from analysis.reading import measures, missing, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import BASE, Runs
from tspin.config.shift import WAYS
from tspin.tools import intervals
from tspin.tools.intervals import Interval

NAMES = ("drift",)
ALL = "all rows"
PERIODS = ("current", "past")
ACCURACY = measures.percent("exact_match,greedy", "accuracy, greedy")
LOGP = Measure("logp_per_token", "log-likelihood of y", "nats per token", digits=3, better=1)


def build(runs: Runs, name: str = "drift") -> list[Piece]:
    """A figure and a table for every setting whose rows have a time."""
    shifting = runs.where(_is_timed)
    if len(shifting):
        return of_settings(shifting, name, _of_setting)
    drawn, _ = style.one_panel((4.2, 3.0), empty=True)
    lines = [f"no run on data that shift{missing.command('drift', runs, None)}"]
    return [Drawing(name, "Data that shift.", drawn, pd.DataFrame(), lines)]


def way(run: Run) -> str:
    """Which rows of the past it trains on: "window=1 replay=0.25"; all of them."""
    return " ".join(f"{key}={value}" for key, value in _ways(run).items()) or ALL


def rows(runs: Runs) -> pd.DataFrame:
    """A row for each method: `current` and `past`, means over the iterations, `regret`, and how far
    the first two are from the same method on all rows; each with its interval. Of runs that have
    finished all their iterations."""
    measure = _measure(runs)
    values = _values(runs, measure)
    best = _best(values)
    whole = [r.name for r in runs if {*range(r.iterations)} <= {*r.folder.iterations()}]
    of_run = values[(values["iteration"] != BASE) & values["period"].isin(PERIODS)]
    of_run = of_run[of_run["run"].isin(whole)]
    means = of_run.groupby(["run", "period"])["value"].mean()
    plain = {_other(run): run for run in runs if way(run) == ALL and run.name in whole}
    table = []
    for label in style.in_order(runs.labels()):
        members = runs.by_label()[label]
        row: dict[str, object] = {"label": label, "seeds": len(members)}
        for period in PERIODS:
            of_seeds = [means.get((run.name, period), np.nan) for run in members]
            row |= spread(period, stats.mean_interval(of_seeds))
        row |= spread("regret", stats.mean_interval([_regret(values, r, best) for r in members]))
        pairs = [(run, plain.get(_other(run))) for run in members if run.name in whole]
        both = [(run, other) for run, other in pairs if other is not None and other is not run]
        for period in PERIODS:
            row |= spread(f"{period}_gain", _difference(runs, both, period, means, measure))
        table.append(row)
    return pd.DataFrame(table)


def _of_setting(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    measure, lines = _measure(runs), missing.iterations(runs)
    lines += missing.seeds(runs, "drift", setting)
    drawn, data = _drawn(runs, measure)
    caption = (
        f"{measure.opening} on held-out rows of the part that an iteration has just trained on "
        f"(current) and of all parts before (past), {setting}. Mean and 95% interval over seeds."
    )
    columns = (
        Column("label", "method"), Column("seeds", "seeds"),
        Column("current", f"current, {measure.axis}", measure.digits, 1),
        Column("past", "past", measure.digits, 1),
        Column("regret", "dynamic regret", measure.digits, -1),
        Column("current_gain", "current, less all rows'", measure.digits, signed=True),
        Column("past_gain", "past, less all rows'", measure.digits, signed=True),
    )  # fmt: skip
    table = (
        f"The same as means over the iterations, {setting}; the sum over them of what lacks to the "
        "best that any run was seen to be on that part (dynamic regret); differences to the same "
        "method on all rows, on the same prompts and seeds where answers can be checked."
    )
    return [
        Drawing(name, caption, drawn, data, lines),
        Table(f"{name}-table", table, columns, rows(runs), missing=lines),
    ]


def _drawn(runs: Runs, measure: Measure) -> tuple[style.Figure, pd.DataFrame]:
    """A row of panels for each objective, a panel for each period, a line for each way."""
    values = runs.described(
        _values(runs, measure), objective=lambda run: run.values["loss.label"], way=way
    )
    values = values[(values["iteration"] != BASE) & values["period"].isin(PERIODS)]
    data = stats.bands(values, ["objective", "way", "period", "iteration"])
    objectives = style.in_order(data["objective"])
    ways = [ALL, *sorted({*data["way"]} - {ALL})]
    colours = ("#000000", *style.OTHER_COLOURS)
    drawn = style.figure(max(len(objectives), 1), len(PERIODS))
    for number, axes in enumerate(drawn.axes[: len(objectives) * len(PERIODS)]):
        objective, period = objectives[number // len(PERIODS)], PERIODS[number % len(PERIODS)]
        panel = data[(data["objective"] == objective) & (data["period"] == period)]
        for i, name in enumerate(ways):
            line = panel[panel["way"] == name]
            if len(line):
                color = colours[i % len(colours)]
                style.curve(axes, line, "iteration", label=name, color=color, marker="o")
        axes.set(title=f"{objective}, {period} rows", xlabel="iteration", ylabel=measure.axis)
        style.whole_numbers(axes)
    if not objectives:
        style.blank(drawn.axes[0], "no held-out rows")
    style.legend(drawn, columns=3)
    return drawn, data


def _is_timed(run: Run) -> bool:
    return any(run.values.get(f"data.shift.{key}") is not None for key in ("column", "parts"))


def _ways(run: Run) -> dict[str, str]:
    """The keys of data.shift that are not at rest, as words."""
    values = {key: run.values.get(f"data.shift.{key}", rest) for key, rest in WAYS.items()}
    return {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in values.items()
        if value != WAYS[key]
    }


def _other(run: Run) -> tuple[str, int, str]:
    """What the run has in common with the same method in another way: all but data.shift."""
    ways = tuple(f"data.shift.{key}" for key in WAYS)
    method = sorted((key, str(value)) for key, value in run.method.items() if key not in ways)
    return run.loss, run.seed, str(method)


def _measure(runs: Runs) -> Measure:
    there = set(runs.evaluation["key"])
    return ACCURACY if f"{ACCURACY.key},current" in there else LOGP


def _values(runs: Runs, measure: Measure) -> pd.DataFrame:
    """runs.evaluation of the measure by time: `period` is current, past or part_K."""
    numbers, start = runs.evaluation, f"{measure.key},"
    timed = numbers[numbers["key"].str.startswith(start)]
    period = timed["key"].str.removeprefix(start)
    return timed.assign(period=period, value=timed["value"] * measure.factor)


def _best(values: pd.DataFrame) -> dict[int, float]:
    """Part -> the most that a method was worth on it after any iteration, its mean over seeds."""
    of_parts = values[values["period"].str.startswith("part_")]
    means = of_parts.groupby(["label", "iteration", "period"])["value"].mean()
    best = means.groupby(level="period").max()
    return {int(str(name).removeprefix("part_")): float(value) for name, value in best.items()}


def _regret(values: pd.DataFrame, run: Run, best: dict[int, float]) -> float:
    """NaN unless each of its iterations was judged on its own part."""
    own = values[(values["run"] == run.name) & (values["period"] == "current")]
    current = own[own["iteration"] != BASE].set_index("iteration")["value"]
    if {*current.index} != {*range(run.iterations)}:
        return float("nan")
    return float(sum(best[t] - value for t, value in current.items()))


def _difference(
    runs: Runs, pairs: Sequence[tuple[Run, Run]], period: str, means: pd.Series, measure: Measure
) -> Interval:
    """Of the runs less the others, prompt by prompt where a program checked the answers."""
    if measure is not ACCURACY or not pairs:
        of_seeds = [[means.get((r.name, period), np.nan) for r in pair] for pair in pairs]
        return stats.mean_interval([ours - theirs for ours, theirs in of_seeds])
    columns = [_of_prompts(runs, a, period) - _of_prompts(runs, b, period) for a, b in pairs]
    return intervals.bootstrap(measure.factor * pd.concat(columns, axis=1).to_numpy(float).T)


def _of_prompts(runs: Runs, run: Run, period: str) -> pd.Series:
    """Of each held-out prompt the share of right answers in the period, weighted so that their mean
    is the mean over the iterations: each prompt of an iteration's period counts alike."""
    parts, decoding = runs.parts(run), ACCURACY.key.partition(",")[2]
    shares = []
    for t in run.folder.iterations():
        of_t = right(runs, run, t, decoding)
        part = parts.reindex(of_t.index)
        shares.append(of_t[part == t] if period == "current" else of_t[part < t])
    shares = [of_t / len(of_t) for of_t in shares if len(of_t)]
    by_prompt = pd.concat(shares).groupby(level=0).sum()
    return by_prompt * len(by_prompt) / len(shares)
