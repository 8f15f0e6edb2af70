"""Means, intervals and tests over seeds and prompts. Numbers in, numbers out; no files.

Seeds are few: their intervals are Student's t. Prompts are many and the same for every seed, so
that two methods are compared pair by pair, resampling seeds and prompts both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over n values and its 95% interval; NaN where one value says nothing of it."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return (self.high - self.mean) / float(t_quantile(self.n))

    @property
    def p(self) -> float:
        """Two-sided, that the mean is 0 (t test); NaN where no two values differ."""
        if not self.error > 0:
            return math.nan
        return float(2 * stdtr(self.n - 1, -abs(self.mean / self.error)))

    @property
    def effect(self) -> float:
        """The mean over the values' standard deviation; NaN where no two values differ."""
        return self.mean / (self.error * math.sqrt(self.n)) if self.error > 0 else math.nan


@dataclass(frozen=True)
class Test:
    """Whether A beats B on the same prompts.

    difference  mean of A minus B
    p           two-sided, that there is none
    effect      Cohen's d_z: the mean difference of a prompt (over seeds) over its spread
    """

    difference: float
    low: float
    high: float
    p: float
    effect: float
    num_seeds: int
    num_prompts: int


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean +- t(n - 1) s / sqrt(n), over independent values such as seeds; NaN are left out."""
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if len(x) < 2:
        return Interval(float(x[0]) if len(x) else math.nan, math.nan, math.nan, len(x))
    mean = float(x.mean())
    half = float(t_quantile(len(x)) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, len(x))


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


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """`mean_interval` of a - b over the seeds that both have."""
    return mean_interval([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def bootstrap(differences: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Test:
    """Paired bootstrap over seeds and prompts, both resampled.

    differences  (seeds, prompts) A minus B on the same prompt; NaN where one has no answer

    The standard error is the spread of the resamples. A resample draws n - 1 of n seeds, and of
    the prompts, with replacement, weighted n/(n - 1): so it is unbiased however few they are (Rao
    and Wu 1988). The interval and p are Student's t with Satterthwaite's degrees of freedom,
    because percentiles of three seeds cover far less than they say. One seed: nothing is said of
    another.
    """
    present = ~np.isnan(differences)
    differences = differences[present.any(1)][:, present.any(0)]
    present = ~np.isnan(differences)
    num_seeds, num_prompts = differences.shape
    if num_prompts < 2:
        nan = math.nan
        return Test(nan, nan, nan, nan, nan, num_seeds, num_prompts)
    filled, ones = np.where(present, differences, 0.0), present.astype(float)
    of_seeds = _weights(num_seeds, resamples, 2 * seed)
    of_prompts = _weights(num_prompts, resamples, 2 * seed + 1)
    above = ((of_prompts @ filled.T) * of_seeds).sum(axis=1)
    below = ((of_prompts @ ones.T) * of_seeds).sum(axis=1)
    error = float((above[below > 0] / below[below > 0]).std(ddof=1))
    difference = float(filled.sum() / ones.sum())
    by_seed, by_prompt = np.nanmean(differences, axis=1), np.nanmean(differences, axis=0)
    spread = float(by_prompt.std(ddof=1))
    parts = [(spread**2 / num_prompts, num_prompts)]
    if num_seeds > 1:
        parts.append((float(by_seed.var(ddof=1)) / num_seeds, num_seeds))
    below_line = sum(part**2 / (n - 1) for part, n in parts)
    freedom = sum(part for part, _ in parts) ** 2 / below_line if below_line else math.inf
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error if error else 0.0
    return Test(
        difference=difference,
        low=difference - half,
        high=difference + half,
        p=float(2 * stdtr(freedom, -abs(difference) / error)) if error else float(not difference),
        effect=float(by_prompt.mean()) / spread if spread else math.nan,
        num_seeds=num_seeds,
        num_prompts=num_prompts,
    )


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected for their number (Holm 1979); NaN stay and count not."""
    values = pd.Series(p, dtype=float)
    corrected = values.sort_values() * (values.count() - np.arange(len(values)))
    return corrected.cummax().clip(upper=1.0).sort_index().tolist()


def correlation(x: pd.Series, y: pd.Series) -> float:
    """Pearson's r; NaN below three points or where one of them does not vary."""
    return float(x.corr(y, min_periods=3))


@lru_cache(maxsize=4)  # every pair of methods asks for the same
def _weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n) weights of mean 1; one unit is not resampled."""
    if n == 1:
        return np.ones((resamples, 1))
    random = np.random.default_rng(seed)
    return random.multinomial(n - 1, np.full(n, 1 / n), size=resamples) * (n / (n - 1))
