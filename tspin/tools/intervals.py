"""95% intervals: of a share, and of a difference that is resampled. Numbers in, numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard errors that a normal interval reaches


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


def wilson(share: float, n: int, *, stderr: float | None = None) -> tuple[float, float]:
    """Wilson's interval of a share of n prompts (1927); it stays within 0 and 1.

    stderr  of a share over several draws of a prompt, which are not independent: n becomes the
            number of independent draws that would have this standard error
    """
    if stderr and n > 1 and 0 < share < 1:
        n_effective = share * (1 - share) / stderr**2 * n / (n - 1)  # n, for one draw a prompt
    else:
        n_effective = float(n)
    middle = (share + Z**2 / (2 * n_effective)) / (1 + Z**2 / n_effective)
    spread = share * (1 - share) / n_effective + (Z / (2 * n_effective)) ** 2
    half = Z * math.sqrt(spread) / (1 + Z**2 / n_effective)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def bootstrap(differences: np.ndarray, *, resamples: int = 2000) -> Interval:
    """Paired bootstrap over seeds and prompts, both resampled.

    differences  (seeds, prompts) A minus B on the same prompt; NaN where one has no answer

    The standard error is the spread of the resamples. A resample draws n - 1 of n seeds, and of
    the prompts, with replacement, weighted n/(n - 1): so it is unbiased however few they are (Rao
    and Wu 1988). The interval and p are Student's t with Satterthwaite's degrees of freedom,
    because percentiles of three seeds cover far less than they say. One seed: nothing is said of
    another.
    """
    from scipy.special import stdtr, stdtrit  # takes a while: not for who only asks for help

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


@lru_cache(maxsize=4)  # every pair of methods asks for the same
def _weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n) weights of mean 1; one unit is not resampled."""
    if n == 1:
        return np.ones((resamples, 1))
    random = np.random.default_rng(seed)
    return random.multinomial(n - 1, np.full(n, 1 / n), size=resamples) * (n / (n - 1))
