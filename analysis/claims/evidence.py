"""What runs say of one thing: how much better one side is than another, and whether that is shown.

Differences are turned so that more is better; their intervals are of 95%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures import comparison
from analysis.figures.comparison import Side
from analysis.figures.pieces import HIGH, LOW
from analysis.reading import measures, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run
from analysis.reading.missing import ENOUGH
from analysis.reading.regimes import Regime
from analysis.reading.runs import Runs

HALF = (40.0, 60.0)  # percent: "about half"
POINTS = "points"


@dataclass(frozen=True)
class Part:
    """One thing that a claim says of these runs.

    mean, low, high  the number and its 95% interval, in `unit`; NaN: not measured, no interval
    holds            None: not enough data
    reading          why it holds or not, in words
    """

    what: str
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    num_seeds: int = 0
    num_prompts: int | None = None
    holds: bool | None = None
    reading: str = ""
    measure: Measure | None = None  # of quality, that it is judged on

    @property
    def numbers(self) -> str:
        """ "+1.20 points [0.30, 2.10], 3 seeds, 800 prompts" """
        if math.isnan(self.mean):
            return ""
        sign = "+" if self.unit != "%" else ""
        space = " " * (self.unit not in ("", "%"))
        text = f"{self.mean:{sign}.2f}{space}{self.unit}"
        if not math.isnan(self.low):
            text += f" [{self.low:.2f}, {self.high:.2f}]"
        if self.num_seeds:
            text += f", {self.num_seeds} seed{'s' * (self.num_seeds != 1)}"
        return text + (f", {self.num_prompts} prompts" if self.num_prompts else "")

    def __str__(self) -> str:
        numbers = f": {self.numbers}" if self.numbers else ""
        return f"{self.what}{numbers} ({self.reading})"


@dataclass(frozen=True)
class Gain:
    """How much better one side is than another, in the measure's unit."""

    mean: float
    low: float
    high: float
    num_seeds: int
    num_prompts: int | None  # None: over seeds alone
    measure: Measure

    @classmethod
    def of_seeds(cls, over: stats.Interval, measure: Measure) -> Gain:
        return cls(over.mean, over.low, over.high, over.n, None, measure)


def gain_of(runs: Runs, a: Side, b: Side, measure: Measure) -> Gain:
    """Over seeds and prompts where a program checked the answers, else over seeds."""
    sign = measure.better
    kind, _, decoding = measure.key.partition(",")
    if kind == "exact_match" and {run.seed for run in a.runs} & {run.seed for run in b.runs}:
        right = sign * measure.factor * comparison.differences(runs, a, b, decoding)
        test = stats.bootstrap(right)
        if not math.isnan(test.difference):
            return Gain(
                test.difference, test.low, test.high, test.num_seeds, test.num_prompts, measure
            )
    values = measures.values(runs, [measure])
    values = values.assign(value=sign * values["value"])
    over = stats.paired(*(comparison.by_seed(values, side) for side in (a, b)))
    return Gain.of_seeds(over, measure)


def at_end(regime: Regime, a: str, b: str, *, margin: float | None = None) -> list[Part]:
    """Objective a over objective b where `comparison` compares them; at least, with a margin."""
    sides = [regime.side(a), regime.side(b)]
    main = main_of(regime, [*sides[0], *sides[1]])
    if not all(sides) or main is None:
        absent = [loss for loss, side in zip((a, b), sides, strict=True) if not side]
        why = f"no run with loss={', '.join(absent)}" if absent else "nothing measured"
        return [nothing(f"loss={a} over loss={b}", why)]
    labels = [side[0].label for side in sides]
    what = f"{labels[0]} over {labels[1]}"
    pair = regime.runs.where(lambda run: run.label in labels)
    compared = comparison.compare(pair)
    row = next(iter(compared[compared["measure"] == main.title].to_dict("records")), None)
    if row is None:
        return [nothing(what, "no common finished iteration")]
    turn = main.better * (1 if row["a"] == labels[0] else -1)
    ends = sorted(turn * row[f"difference{end}"] + 0.0 for end in (LOW, HIGH))  # no -0.0
    prompts = row["num_prompts"]
    gain = Gain(
        turn * row["difference"] + 0.0, ends[0], ends[1], int(row["num_seeds"]),
        None if math.isnan(prompts) else int(prompts), main,
    )  # fmt: skip
    what = f"{what}, after iteration {row['iteration']}"
    return [above(what, gain) if margin is None else at_least(what, gain, margin)]


def above(what: str, gain: Gain) -> Part:
    """Holds where the interval is above 0."""
    return _against(what, gain, 0.0)


def at_least(what: str, gain: Gain, margin: float) -> Part:
    """Holds where the interval is above -margin."""
    if gain.measure.unit != "%":
        return nothing(what, f"the margin is in points of a share; {gain.measure.title} is none")
    return _against(what, gain, -margin)


def _against(what: str, gain: Gain, line: float) -> Part:
    unit = POINTS if gain.measure.unit == "%" else gain.measure.unit
    held: bool | None
    if gain.num_seeds < ENOUGH or math.isnan(gain.low):
        held, reading = None, _few(gain.num_seeds)
    elif gain.low > line:
        held, reading = True, f"shown: the interval is above {line:g}"
    elif gain.high < line:
        held, reading = False, f"the reverse is shown: the interval is below {line:g}"
    else:
        held, reading = False, f"not shown: the interval reaches over {line:g}"
    return Part(
        what, gain.mean, gain.low, gain.high, unit, gain.num_seeds, gain.num_prompts, held,
        reading, gain.measure,
    )  # fmt: skip


def about_half(what: str, share: stats.Interval) -> Part:
    """Holds where the interval lies within HALF."""
    low, high = HALF
    limits = f"{low:g} to {high:g}%"
    held: bool | None
    if share.n < ENOUGH:
        held, reading = None, _few(share.n)
    elif low <= share.low and share.high <= high:
        held, reading = True, f"shown: the interval is within {limits}"
    elif share.high < low or share.low > high:
        held, reading = False, f"another share is shown: the interval is outside {limits}"
    else:
        held, reading = False, f"not shown: the interval reaches out of {limits}"
    return Part(what, share.mean, share.low, share.high, "%", share.n, None, held, reading)


def _few(num_seeds: int) -> str:
    return f"fewer than {ENOUGH} seeds" if num_seeds else "not measured in both"


def nothing(what: str, why: str) -> Part:
    return Part(what, reading=why)


def main_of(regime: Regime, members: Sequence[Run]) -> Measure | None:
    """The main number of some runs; None where there is none, or no better and worse."""
    names = {run.name for run in members}
    main = measures.main_of(regime.runs.where(lambda run: run.name in names))
    return main if main and main.better else None


def series_of(values: pd.DataFrame, run: Run, iterations: Sequence[int]) -> list[float]:
    """Values of a run, in the order of the iterations, without what was not measured."""
    own = values[values["run"] == run.name].set_index("iteration")["value"]
    return [float(own[t]) for t in iterations if t in own.index]
