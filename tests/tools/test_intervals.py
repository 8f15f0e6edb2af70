"""tools.intervals: by hand, and how often intervals hold the truth on simulated data."""

import math

import numpy as np
import pytest

from tspin.tools.intervals import bootstrap, wilson


def test_wilson_of_8_in_10():
    """(0.8 + 0.19207) / 1.38415 +- 1.95996 sqrt(0.016 + 0.0096036) / 1.38415"""
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_wilson_of_one_draw_a_prompt_is_that_of_the_prompts():
    stderr = math.sqrt(0.8 * 0.2 / 9)  # s / sqrt(n) of 8 ones and 2 zeros
    assert wilson(0.8, 10, stderr=stderr) == pytest.approx(wilson(0.8, 10))


def test_wilson_of_several_draws_is_as_wide_as_their_error_says():
    """Half the standard error is four times the prompts."""
    stderr = math.sqrt(0.8 * 0.2 / 9) / 2
    assert wilson(0.8, 10, stderr=stderr) == pytest.approx(wilson(0.8, 40))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wilson_stays_within_0_and_1(share):
    low, high = wilson(share, 20, stderr=0.0)
    assert 0 <= low <= share <= high <= 1 and high - low == pytest.approx(0.1611, abs=1e-4)


def test_bootstrap_without_a_difference():
    found = bootstrap(np.zeros((3, 20)))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert (found.n, found.num_prompts) == (3, 20)


def test_bootstrap_counts_only_what_both_answered():
    """Differences 1, 1, 1 and 0 with one missing: mean 3/4; d_z over prompts 1, 1, 0 (means)"""
    nan = math.nan
    found = bootstrap(np.array([[1, 1, 0, nan], [1, nan, nan, nan]]))
    assert found.mean == pytest.approx(3 / 4)
    assert (found.n, found.num_prompts) == (2, 3)
    assert found.effect == pytest.approx((2 / 3) / np.std([1, 1, 0], ddof=1))


def test_bootstrap_of_one_seed_is_the_paired_error_of_its_prompts():
    differences = np.random.default_rng(0).normal(0.3, 1.0, (1, 400))
    found = bootstrap(differences, resamples=4000)
    error = differences.std(ddof=1) / math.sqrt(400)
    assert (found.high - found.low) / 2 == pytest.approx(1.966 * error, rel=0.05)


@pytest.mark.parametrize("seeds, between", [(3, 0.0), (3, 0.1), (3, 0.5), (8, 0.1)])
def test_bootstrap_covers_the_truth(seeds, between):
    """95% intervals hold the true difference in 89% to 99.5% of 200 simulated experiments, whether
    prompts or seeds make the noise."""
    random = np.random.default_rng(seeds)
    truth, hits = 0.2, 0
    for _ in range(200):
        noise = between * random.standard_normal((seeds, 1))
        noise = noise + 0.5 * random.standard_normal((1, 60)) + random.normal(0, 0.5, (seeds, 60))
        found = bootstrap(truth + noise, resamples=300)
        hits += found.low <= truth <= found.high
    assert 0.89 <= hits / 200 <= 0.995


def test_bootstrap_finds_what_is_there():
    random = np.random.default_rng(1)
    found = bootstrap(0.5 + random.standard_normal((3, 300)))
    assert found.p < 0.001 and found.low > 0
