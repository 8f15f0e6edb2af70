"""analysis.reading.stats: by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.reading.stats import (
    bands,
    error_of_mean,
    holm,
    mean_interval,
    not_told_from,
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


def test_a_mean_over_seeds_is_told_from_another_by_the_spread_of_seeds_too():
    """Seeds that agree leave the error over prompts, 3 each; 50, 60, 70 add 10 by root 3."""
    quiet = error_of_mean([60, 60, 60], [3, 3, 3])
    noisy = error_of_mean([50, 60, 70], [3, 3, 3])
    assert quiet == pytest.approx(3 / 3**0.5)
    assert noisy == pytest.approx((100 / 3 + 3) ** 0.5)
    assert error_of_mean([60], [3]) == 3
    means = {"best": 60.0, "near": 50.0, "far": 20.0, "unknown": 59.0}
    for error, alike in ((quiet, []), (noisy, ["near"])):
        errors = dict.fromkeys(means, error) | {"unknown": math.nan}
        assert not_told_from("best", means, errors) == alike
