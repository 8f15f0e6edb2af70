"""What a policy is worth by its main held-out number, how sure that is, and what it gained.

No torch. Numbers come from eval.json; differences are of the same prompts, from answers and scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    value, stderr = estimate["value"], estimate["stderr"]
    if name.startswith("exact_match"):
        return Worth(name, value, *wilson(value, estimate["n"], stderr=stderr))
    if stderr is None or not 0 < value < math.inf:
        return Worth(name, value, math.nan, math.nan)
    reach = math.exp(Z * stderr / value)  # of its logarithm, which is a mean
    return Worth(name, value, value / reach, value * reach)


def gain(first: Iteration, last: Iteration, metric: str) -> Interval | None:
    """What a metric gained from one policy to another, in points (accuracy) or % (perplexity).

    Paired bootstrap over prompts; None where the prompts of one are not there.
    """
    if metric.startswith("exact_match"):
        decoding = metric.partition(",")[2]
        shares = [_right(out, decoding) for out in (first, last)]
        ids = [i for i in shares[0] if i in shares[1]]
        return _over([100 * (shares[1][i] - shares[0][i]) for i in ids])
    logps = [_logps(out) for out in (first, last)]
    ids = [i for i in logps[0] if i in logps[1]]
    if not ids:
        return None
    num_tokens = np.array([logps[1][i][1] for i in ids], dtype=float)
    differences = np.array([logps[1][i][0] - logps[0][i][0] for i in ids])
    # Of a ratio of sums: each prompt's residual beside the ratio, so that their mean is the ratio.
    ratio = differences.sum() / num_tokens.sum()
    interval = _over(ratio + (differences - ratio * num_tokens) / num_tokens.mean())
    if interval is None:
        return None
    mean, low, high = (
        100 * math.expm1(-nats) for nats in (ratio, interval.high, interval.low)
    )  # fewer nats is more perplexity
    return Interval(mean, low, high, interval.p, interval.effect, 1, len(ids))


def _over(differences: Sequence[float] | np.ndarray) -> Interval | None:
    return bootstrap(np.array([differences], dtype=float)) if len(differences) else None


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
