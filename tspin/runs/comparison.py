"""What a policy is worth by its main held-out number, how sure that is, and what it gained.

No torch. Numbers come from eval.json; differences are of the same prompts, from answers and scores.
The end of a run and the pages of a report say a change in the words of `Change`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tspin.runs.artifacts import Iteration
from tspin.runs.evaluation import main_estimate
from tspin.tools.intervals import Interval, Z, bootstrap, wilson
from tspin.tools.parquet import each_row


@dataclass(frozen=True)
class Worth:
    """The main held-out number of a policy, with its 95% interval (NaN: unknown).

    metric  of evaluation.MAIN: a share of right answers, or the perplexity of annotated responses
    """

    metric: str
    value: float
    low: float
    high: float

    @property
    def is_accuracy(self) -> bool:
        return self.metric.startswith("exact_match")

    @property
    def name(self) -> str:
        return "accuracy" if self.is_accuracy else self.metric

    @property
    def number(self) -> str:
        return f"{self.value:.1%}" if self.is_accuracy else f"{self.value:.4g}"

    def __str__(self) -> str:
        if math.isnan(self.low + self.high):
            return self.number
        if self.is_accuracy:
            return f"{self.number} [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{self.number} [{self.low:.4g}, {self.high:.4g}]"


def worth(out: Iteration, metric: str | None = None) -> Worth | None:
    """By the first of evaluation.MAIN that eval.json has, or by the one given; None without it."""
    if (main := main_estimate(out, metric)) is None:
        return None
    name, estimate = main
    return Worth(name, estimate["value"], *interval(name, **estimate))


def interval(
    metric: str, value: float, stderr: float | None, n: float | None
) -> tuple[float, float]:
    """The 95% interval over prompts of a held-out number in eval.json; NaN where it is not known.

    Of a share of right answers Wilson's, of perplexity that of its logarithm, which is a mean.
    """
    if metric.startswith("exact_match") and n is not None:
        return wilson(value, int(n), stderr=stderr)
    if stderr is None:
        return math.nan, math.nan
    if metric == "perplexity":
        if not 0 < value < math.inf:
            return math.nan, math.nan
        reach = math.exp(Z * stderr / value)
        return value / reach, value * reach
    return value - Z * stderr, value + Z * stderr


@dataclass(frozen=True)
class Form:
    """How a number and a difference of two are written, and which way is better (1 | -1 | 0)."""

    number: str  # as format() has it
    unit: str = ""
    difference: str = ""  # "": as a number
    difference_unit: str = ""
    better: int = 0

    def of(self, value: float) -> str:
        return f"{value:{self.number}}{self.unit}"

    def of_difference(self, over: Interval, unit: str = "") -> str:
        """ "+10.8 [7.9, 13.6]", the interval where there is one"""
        how = self.difference or self.number
        text = f"{over.mean:+{how}}{unit}"
        return text if math.isnan(over.low) else f"{text} [{over.low:{how}}, {over.high:{how}}]"

    def verdict(self, over: Interval) -> str:
        """better | worse | no clear change | "" where there is no interval, or no better"""
        if math.isnan(over.low) or not self.better:
            return ""
        turned = over.turned(self.better)
        return "better" if turned.low > 0 else "worse" if turned.high < 0 else "no clear change"


SHARE = Form(".1f", "%", ".1f", " points", better=1)  # numbers are 0 to 100
PERPLEXITY = Form(".4g", "", ".1f", "%", better=-1)  # its difference is relative


@dataclass(frozen=True)
class Change:
    """A number of a policy and of a later one.

    start  None: the first was not evaluated
    over   the difference with its 95% interval, NaN ends: not known; None: nothing to compare
    """

    form: Form
    start: float | None
    end: float
    over: Interval | None

    @property
    def numbers(self) -> str:
        """ "42.0% to 52.8%, +10.8 points [7.9, 13.6]" """
        end = self.form.of(self.end)
        if self.start is None:
            return end
        text = f"{self.form.of(self.start)} to {end}"
        if self.over is None:
            return text
        return f"{text}, {self.form.of_difference(self.over, self.form.difference_unit)}"

    @property
    def verdict(self) -> str:
        return "" if self.over is None else self.form.verdict(self.over)


def change(first: Iteration, last: Iteration, metric: str) -> Change | None:
    """Of one of evaluation.MAIN; None where one of the policies was not evaluated by it."""
    worths = [worth(out, metric) for out in (first, last)]
    if worths[0] is None or worths[1] is None:
        return None
    form, factor = (SHARE, 100) if worths[0].is_accuracy else (PERPLEXITY, 1)
    start, end = (factor * it.value for it in worths if it is not None)
    return Change(form, start, end, gain(first, last, metric))


def gain(first: Iteration, last: Iteration, metric: str) -> Interval | None:
    """What a metric gained from one policy to another, in points (accuracy) or % (perplexity).

    Paired over prompts; None where the prompts of one are not there.
    """
    if metric.startswith("exact_match"):
        decoding = metric.partition(",")[2]
        shares = [_right(out, decoding) for out in (first, last)]
        ids = [i for i in shares[0] if i in shares[1]]
        return points(np.array([[shares[1][i] - shares[0][i] for i in ids]]))
    logps = [_logps(out) for out in (first, last)]
    ids = [i for i in logps[0] if i in logps[1]]
    differences = np.array([[logps[1][i][0] - logps[0][i][0] for i in ids]])
    return percent(differences, np.array([logps[1][i][1] for i in ids], dtype=float))


def points(differences: np.ndarray) -> Interval | None:
    """Of shares of right answers, in points. differences: (seeds, prompts); None without prompts"""
    return bootstrap(100 * differences.astype(float)) if differences.shape[1] else None


def percent(differences: np.ndarray, num_tokens: np.ndarray) -> Interval | None:
    """Of perplexity, in %: `per_token` of the same; None without prompts."""
    if (over := per_token(differences, num_tokens)) is None:
        return None
    # fewer nats is more perplexity
    mean, low, high = (100 * math.expm1(-nats) for nats in (over.mean, over.high, over.low))
    return replace(over, mean=mean, low=low, high=high)


def per_token(differences: np.ndarray, num_tokens: np.ndarray) -> Interval | None:
    """Of log pi(y), in nats a token, all tokens alike; None without prompts.

    differences  (seeds, prompts) of log pi(y) in nats
    num_tokens   (prompts,) of y
    """
    if not differences.shape[1]:
        return None
    # Of a ratio of sums: each prompt's residual beside the ratio, so that their mean is the ratio.
    ratio = differences.sum(axis=1, keepdims=True) / num_tokens.sum()
    over = bootstrap(ratio + (differences - ratio * num_tokens) / num_tokens.mean())
    return replace(over, mean=float(ratio.mean()))


def _right(out: Iteration, decoding: str) -> dict[str, float]:
    """Prompt id -> share of its answers that are right."""
    if not out.answers.exists():
        return {}
    by_id: dict[str, list[bool]] = {}
    for row in each_row(out.answers, "id", "decoding", "correct"):
        if row["decoding"] == decoding and row["correct"] is not None:
            by_id.setdefault(row["id"], []).append(row["correct"])
    return {i: sum(right) / len(right) for i, right in by_id.items()}


def _logps(out: Iteration) -> dict[str, tuple[float, int]]:
    """Held-out prompt id -> log pi(y) and the tokens of y."""
    if not out.scores.exists():
        return {}
    return {
        row["id"]: (row["logp"], row["num_tokens"])
        for row in each_row(out.scores, "id", "split", "role", "logp", "num_tokens")
        if row["split"] == "heldout" and row["role"] == "annotated"
    }
