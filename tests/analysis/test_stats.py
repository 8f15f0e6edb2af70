"""analysis.reading.stats: by hand, and how often intervals hold the truth on simulated data."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.reading.stats import (
    bands,
    bootstrap,
    holm,
    mean_interval,
    paired,
)


def test_interval_of_three_seeds():
    """1, 2, 3: s = 1, standard error 1/sqrt(3), t(2) = 4.3027 -> 2 +- 2.4841"""
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2, -0.4841, 4.4841), abs=1e-4)


def test_one_seed_has_no_interval():
    found = mean_interval([5.0, math.nan])
    assert (found.mean, found.n) == (5.0, 1) and math.isnan(found.low) and math.isnan(found.high)


def test_bands_are_the_intervals_of_groups():
    frame = pd.DataFrame({"label": list("aaab"), "value": [1.0, 2.0, 3.0, 7.0]})
    found = bands(frame, ["label"]).set_index("label")
    assert found.loc["a", "high"] == pytest.approx(mean_interval([1, 2, 3]).high)
    assert found.loc["b", "mean"] == 7 and math.isnan(found.loc["b", "low"])


def test_pairs_are_of_the_seeds_that_both_have():
    """3 - 1 and 5 - 3; seed 9 has no partner"""
    found = paired({0: 3.0, 1: 5.0, 9: 0.0}, {0: 1.0, 1: 3.0})
    assert (found.mean, found.low, found.high, found.n) == (2, 2, 2, 2)


def test_t_test_at_the_border_of_the_interval():
    """An interval that begins at 0 has p = 0.05."""
    found = mean_interval([1.0, 2.0, 3.0])
    border = mean_interval(np.array([1.0, 2.0, 3.0]) - found.low)
    assert border.p == pytest.approx(0.05)


def test_holm():
    """0.01 x 3, 0.02 x 2, 0.5 x 1; a NaN is no test"""
    nan = math.nan
    assert holm([0.5, nan, 0.01, 0.02]) == pytest.approx([0.5, nan, 0.03, 0.04], nan_ok=True)
    assert holm([0.03, 0.02]) == [0.04, 0.04]  # never smaller than a smaller one's


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
