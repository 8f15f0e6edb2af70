"""Means, intervals and tests over seeds and prompts. Numbers in, numbers out; no files.

Seeds are few: their intervals are Student's t. Prompts are many and the same for every seed, so
that two methods are compared pair by pair, resampling seeds and prompts both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval, and the test that it is 0; NaN where there is too little.

    p            two-sided; NaN where no two values differ
    effect       the mean over the values' standard deviation; between prompts Cohen's d_z: the mean
                 difference of a prompt (over seeds) over its spread
    n            values, such as seeds
    num_prompts  None: over seeds alone
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float
    n: int
    num_prompts: int | None = None

    def turned(self, sign: int) -> Interval:
        """That of the values times 1 or -1."""
        low, high = sorted(sign * end + 0.0 for end in (self.low, self.high))  # no -0.0
        return replace(self, mean=sign * self.mean + 0.0, low=low, high=high)


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


def bootstrap(differences: np.ndarray, *, resamples: int = 2000) -> Interval:
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
        return Interval(nan, nan, nan, nan, nan, num_seeds, num_prompts)
    filled, ones = np.where(present, differences, 0.0), present.astype(float)
    of_seeds = _weights(num_seeds, resamples, seed=0)
    of_prompts = _weights(num_prompts, resamples, seed=1)
    above = ((of_prompts @ filled.T) * of_seeds).sum(axis=1)
    below = ((of_prompts @ ones.T) * of_seeds).sum(axis=1)
    error = float((above[below > 0] / below[below > 0]).std(ddof=1))
    mean = float(filled.sum() / ones.sum())
    by_seed, by_prompt = np.nanmean(differences, axis=1), np.nanmean(differences, axis=0)
    spread = float(by_prompt.std(ddof=1))
    parts = [(spread**2 / num_prompts, num_prompts)]
    if num_seeds > 1:
        parts.append((float(by_seed.var(ddof=1)) / num_seeds, num_seeds))
    below_line = sum(part**2 / (n - 1) for part, n in parts)
    freedom = sum(part for part, _ in parts) ** 2 / below_line if below_line else math.inf
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error if error else 0.0
    p = float(2 * stdtr(freedom, -abs(mean) / error)) if error else float(not mean)
    effect = float(by_prompt.mean()) / spread if spread else math.nan
    return Interval(mean, mean - half, mean + half, p, effect, num_seeds, num_prompts)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected for their number (Holm 1979); NaN stay and count not."""
    values = pd.Series(p, dtype=float)
    corrected = values.sort_values() * (values.count() - np.arange(len(values)))
    return corrected.cummax().clip(upper=1.0).sort_index().tolist()


@lru_cache(maxsize=4)  # every pair of methods asks for the same
def _weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n) weights of mean 1; one unit is not resampled."""
    if n == 1:
        return np.ones((resamples, 1))
    random = np.random.default_rng(seed)
    return random.multinomial(n - 1, np.full(n, 1 / n), size=resamples) * (n / (n - 1))
