"""What training changed, in one sentence: "42.0% to 52.8%, +10.8 points [7.9, 13.6]"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures.comparison import right
from analysis.reading import measures, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, finished
from analysis.reading.runs import BASE, Runs
from tspin.runs import comparison
from tspin.tools.intervals import Interval


@dataclass(frozen=True)
class Change(comparison.Change):
    """Of one method, or of one run, from the initial policy to the last common iteration; numbers
    are means over seeds."""

    measure: Measure
    t: int
    num_seeds: int

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
    The interval is over prompts (and seeds) where those are known, else over seeds.
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
        return Change(main.form, None, end, None, main, t, len(names))
    over = _over_prompts(runs, members, main, t)
    if over is None:
        relative = main.form == comparison.PERPLEXITY
        differences = [
            100 * (by_run[t][name] / start[name] - 1) if relative else by_run[t][name] - start[name]
            for name in sorted(names)
        ]
        over = stats.mean_interval(differences)
    mean = sum(start.values()) / len(names)
    return Change(main.form, mean, end, over, main, t, len(names))


def _over_prompts(runs: Runs, members: Sequence[Run], main: Measure, t: int) -> Interval | None:
    """From the initial policy to iteration t, paired; None where a run lacks the prompts of one."""
    kind, _, decoding = main.key.partition(",")
    if kind == "exact_match":
        shares = [[right(runs, run, at, decoding) for run in members] for at in (BASE, t)]
        gained = [last - first for first, last in zip(*shares, strict=True)]
        if any(of_run.isna().all() for of_run in gained):
            return None
        return comparison.points(pd.concat(gained, axis=1).to_numpy(dtype=float).T)
    if kind == "perplexity":
        scores = [[runs.heldout_logps(run, at) for run in members] for at in (BASE, t)]
        gained = [last["logp"] - first["logp"] for first, last in zip(*scores, strict=True)]
        together = pd.concat(gained, axis=1).dropna()
        num_tokens = scores[1][0]["num_tokens"].reindex(together.index)
        return comparison.percent(
            together.to_numpy(dtype=float).T, num_tokens.to_numpy(dtype=float)
        )
    return None
