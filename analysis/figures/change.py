"""What training changed, in one sentence: "42.0% to 52.8%, +10.8 points [7.9, 13.6]"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures.comparison import right
from analysis.reading import measures, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, finished
from analysis.reading.runs import BASE, Runs
from tspin.tools import intervals
from tspin.tools.intervals import Interval


@dataclass(frozen=True)
class Change:
    """Of one method, or of one run, from the initial policy to the last common iteration.

    start  the mean of the initial policy; None where it was not evaluated
    over   end minus start with its interval, turned as it is measured; NaN ends where one seed
           and no prompts leave nothing to say
    """

    measure: Measure
    start: float | None
    end: float
    over: Interval | None
    t: int
    num_seeds: int

    @property
    def unit(self) -> str:
        return "%" if self.measure.unit == "%" else ""

    @property
    def numbers(self) -> str:
        """ "42.0% to 52.8%, +10.8 points [7.9, 13.6]" """
        digits = 1 if self.unit else self.measure.digits
        if self.start is None or self.over is None:
            return f"{self.end:.{digits}f}{self.unit}"
        text = f"{self.start:.{digits}f}{self.unit} to {self.end:.{digits}f}{self.unit}, "
        text += f"{self.over.mean:+.{digits}f}" + (" points" if self.unit else "")
        if not math.isnan(self.over.low):
            text += f" [{self.over.low:.{digits}f}, {self.over.high:.{digits}f}]"
        return text

    @property
    def verdict(self) -> str:
        """better | worse | no clear change | "" where there is no interval, or no better."""
        if self.over is None or math.isnan(self.over.low) or not self.measure.better:
            return ""
        turned = self.over.turned(self.measure.better)
        if turned.low > 0:
            return "better"
        return "worse" if turned.high < 0 else "no clear change"

    def __str__(self) -> str:
        """The sentence, without whose it is."""
        after = f"after {self.t + 1} iteration{'s' * (self.t > 0)}"
        seeds = f", {self.num_seeds} seeds" if self.num_seeds > 1 else ""
        lacking = "" if self.start is not None else "; the initial policy was not evaluated"
        verdict = f": {self.verdict}" if self.verdict else ""
        return f"{self.measure.title} {self.numbers} {after}{seeds}{lacking}{verdict}"


def of(runs: Runs, members: Sequence[Run], measure: Measure | None = None) -> Change | None:
    """The change of these runs, of one method; None where no common iteration was evaluated.

    measure  None: the main number
    Where a program checked the answers the interval is over prompts (and seeds), else over seeds.
    """
    names = {run.name for run in members}
    chosen = runs.where(lambda run: run.name in names)
    main = measures.main_of(chosen) if measure is None else measure
    values = measures.values(chosen, [main]) if main.key else None
    if values is None or values.empty:
        return None
    by_run = {t: dict(zip(of_t["run"], of_t["value"], strict=True))
              for t, of_t in values.groupby("iteration")}  # fmt: skip
    ends = [t for t in sorted(finished(members)) if {*by_run.get(t, ())} == names]
    if not ends:
        return None
    t, start = ends[-1], by_run.get(BASE, {})
    end = sum(by_run[t].values()) / len(names)
    if {*start} != names:
        return Change(main, None, end, None, t, len(names))
    over = stats.mean_interval([by_run[t][name] - start[name] for name in sorted(names)])
    kind, _, decoding = main.key.partition(",")
    if kind == "exact_match":
        pairs = [
            right(runs, run, t, decoding) - right(runs, run, BASE, decoding) for run in members
        ]
        paired = intervals.bootstrap(main.factor * pd.concat(pairs, axis=1).to_numpy(dtype=float).T)
        over = over if math.isnan(paired.mean) else paired
    mean = sum(start.values()) / len(names)
    return Change(main, mean, end, over, t, len(names))
