"""What runs say of one thing: how much better one side is than another, and whether that is shown.

Differences are turned so that more is better; their intervals are of 95%.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from analysis.figures import comparison
from analysis.figures.comparison import Side
from analysis.reading import measures
from analysis.reading.measures import Measure
from analysis.reading.methods import Run
from analysis.reading.missing import ENOUGH
from analysis.reading.regimes import Regime
from tspin.tools.intervals import Interval


@dataclass(frozen=True)
class Part:
    """One thing that a claim says of these runs.

    over     the number and its interval, in `unit`; None: not measured
    holds    None: not enough data
    reading  why it holds or not, in words
    """

    what: str
    over: Interval | None = None
    unit: str = ""
    holds: bool | None = None
    reading: str = ""
    measure: Measure | None = None  # of quality, that it is judged on

    @property
    def numbers(self) -> str:
        """ "+1.20 points [0.30, 2.10], 3 seeds, 800 prompts" """
        over = self.over
        if over is None or math.isnan(over.mean):
            return ""
        sign = "+" if self.unit != "%" else ""
        space = " " * (self.unit not in ("", "%"))
        text = f"{over.mean:{sign}.2f}{space}{self.unit}"
        if not math.isnan(over.low):
            text += f" [{over.low:.2f}, {over.high:.2f}]"
        if over.n:
            text += f", {over.n} seed{'s' * (over.n != 1)}"
        return text + (f", {over.num_prompts} prompts" if over.num_prompts else "")

    def __str__(self) -> str:
        numbers = f": {self.numbers}" if self.numbers else ""
        return f"{self.what}{numbers} ({self.reading})"


def at_end(regime: Regime, a: str, b: str, *, margin: float = 0.0) -> list[Part]:
    """Objective a over objective b where `comparison` compares them; see `above`."""
    sides = [regime.side(a), regime.side(b)]
    main = main_of(regime, [*sides[0], *sides[1]])
    if not all(sides) or main is None:
        absent = [loss for loss, side in zip((a, b), sides, strict=True) if not side]
        why = f"no run with loss={', '.join(absent)}" if absent else "nothing measured"
        return [Part(f"loss={a} over loss={b}", reading=why)]
    what = " over ".join(side[0].label for side in sides)
    ends = comparison.ends(*sides)
    if ends is None:
        return [Part(what, reading="no common finished iteration")]
    pair = Side(sides[0], ends[0]), Side(sides[1], ends[1])
    gain = comparison.gain_of(regime.runs, *pair, main)
    what = f"{what}, after iteration {comparison.when(*pair)}"
    return [above(what, gain, main, margin)]


def above(what: str, gain: Interval, measure: Measure, margin: float = 0.0) -> Part:
    """Holds where the interval is above 0, or above -margin, in points of a share."""
    if margin and measure.unit != "%":
        why = f"the margin is in points of a share; {measure.title} is none"
        return Part(what, reading=why)
    line = 0.0 - margin  # no -0.0
    unit = "points" if measure.unit == "%" else measure.unit
    if gain.n < ENOUGH or math.isnan(gain.low):
        return Part(what, gain, unit, None, _few(gain.n), measure)
    if gain.low > line:
        reading = f"shown: the interval is above {line:g}"
    elif gain.high < line:
        reading = f"the reverse is shown: the interval is below {line:g}"
    else:
        reading = f"not shown: the interval reaches over {line:g}"
    return Part(what, gain, unit, gain.low > line, reading, measure)


def about_half(what: str, share: Interval, half: tuple[float, float]) -> Part:
    """Holds where the interval lies within these limits, in percent."""
    low, high = half
    limits = f"{low:g} to {high:g}%"
    if share.n < ENOUGH:
        return Part(what, share, "%", None, _few(share.n))
    within = low <= share.low and share.high <= high
    if within:
        reading = f"shown: the interval is within {limits}"
    elif share.high < low or share.low > high:
        reading = f"another share is shown: the interval is outside {limits}"
    else:
        reading = f"not shown: the interval reaches out of {limits}"
    return Part(what, share, "%", within, reading)


def _few(num_seeds: int) -> str:
    return f"fewer than {ENOUGH} seeds" if num_seeds else "not measured in both"


def main_of(regime: Regime, members: Iterable[Run]) -> Measure | None:
    """The main number of some runs; None where there is none, or no better and worse."""
    names = {run.name for run in members}
    main = measures.main_of(regime.runs.where(lambda run: run.name in names))
    return main if main.better else None
