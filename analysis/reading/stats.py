"""Means, intervals and tests over seeds. Numbers in, numbers out; no files.

Seeds are few: their intervals are Student's t. Prompts are many and the same for every seed, so
that two methods are compared pair by pair, resampling seeds and prompts both (tools.intervals).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from tspin.tools.intervals import LEVEL, Interval, Z

Name = TypeVar("Name", bound=Hashable)


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean +- t(n - 1) s / sqrt(n), over independent values such as seeds; NaN are left out."""
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    n, nan = len(x), math.nan
    if n < 2:
        return Interval(float(x[0]) if n else nan, nan, nan, nan, nan, n)
    mean, reach = float(x.mean()), float(t_quantile(n))
    half = float(reach * x.std(ddof=1) / math.sqrt(n))
    error = (mean + half - mean) / reach  # 0 where the values differ by rounding alone
    p = float(2 * stdtr(n - 1, -abs(mean / error))) if error > 0 else nan
    effect = mean / (error * math.sqrt(n)) if error > 0 else nan
    return Interval(mean, mean - half, mean + half, p, effect, n)


NOTHING = mean_interval([])  # of no numbers


def t_quantile(n: int | np.ndarray) -> float | np.ndarray:
    """How many standard errors the 95% interval of a mean of n values reaches."""
    return stdtrit(np.maximum(np.asarray(n) - 1.0, 1.0), (1 + LEVEL) / 2)


def bands(frame: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """`mean_interval` of `value` in every group: columns *by, mean, low, high, n."""
    if frame.empty:
        return pd.DataFrame(columns=[*by, "mean", "low", "high", "n"])
    grouped = frame.dropna(subset=[value]).groupby(list(by), sort=False, dropna=False)[value]
    result = grouped.agg(mean="mean", std="std", n="count").reset_index()
    half = t_quantile(result["n"].to_numpy()) * result["std"] / np.sqrt(result["n"])
    result = result.assign(low=result["mean"] - half, high=result["mean"] + half)
    return result[[*by, "mean", "low", "high", "n"]]


def within(banded: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """`bands` of what lies within limits, such as a share: an interval does not reach over them."""
    return banded.assign(low=banded["low"].clip(low, high), high=banded["high"].clip(low, high))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """`mean_interval` of a - b over the seeds that both have."""
    return mean_interval([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def error_of_mean(values: Sequence[float], stderrs: Sequence[float]) -> float:
    """Of a mean over seeds, by the spread of seeds and the error of each over its prompts."""
    n = len(values)
    of_seeds = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return math.hypot(of_seeds, *(stderr / n for stderr in stderrs))


def not_told_from(
    best: Name, means: Mapping[Name, float], errors: Mapping[Name, float]
) -> list[Name]:
    """Names whose difference from the best mean has an interval that includes 0; as if each had
    prompts of its own: rather too many than too few."""
    return [
        name
        for name, mean in means.items()
        if name != best  # and never where one is NaN
        and abs(mean - means[best]) <= Z * math.hypot(errors[name], errors[best])
    ]


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected for their number (Holm 1979); NaN stay and count not."""
    values = pd.Series(p, dtype=float)
    corrected = values.sort_values() * (values.count() - np.arange(len(values)))
    return corrected.cummax().clip(upper=1.0).sort_index().tolist()
