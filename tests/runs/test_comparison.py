"""What a policy is worth and what it gained, by hand on a few prompts."""

import math

import numpy as np
import pytest

from tspin.runs.artifacts import ANSWERS, SCORES, Iteration
from tspin.runs.comparison import PERPLEXITY, SHARE, Change, change, gain, per_token, worth
from tspin.tools.files import write_json
from tspin.tools.intervals import Interval
from tspin.tools.parquet import write_rows


def estimate(value, stderr=None, n=100):
    return {"value": value, "stderr": stderr, "n": n}


def policy(path, **heldout):
    out = Iteration(path)
    path.mkdir()
    write_json(out.evaluation, {"heldout": heldout})
    return out


def answer(out, right):
    """A greedy answer to each prompt, right or not."""
    row = {"response": "", "response_ids": [], "num_tokens": 1, "finish_reason": "stop"}
    row |= {"decoding": "greedy", "draw": 0, "canonical": None}
    rows = [row | {"id": str(i), "correct": correct} for i, correct in enumerate(right)]
    write_rows(out.answers, rows, ANSWERS)


def score(out, logps, num_tokens):
    row = {"split": "heldout", "source": 0, "role": "annotated", "ref_logp": None, "reward": None}
    rows = [
        row | {"id": str(i), "logp": logp, "num_tokens": n}
        for i, (logp, n) in enumerate(zip(logps, num_tokens, strict=True))
    ]
    write_rows(out.scores, rows, SCORES)


def test_accuracy_before_perplexity_and_greedy_before_sampled(tmp_path):
    """Wilson of 80 in 100: (0.8 + 0.0192) / 1.0384 +- 0.0778"""
    numbers = {"perplexity": estimate(2.0), "exact_match,sampled": estimate(0.5)}
    out = policy(tmp_path / "a", **numbers, **{"exact_match,greedy": estimate(0.8)})
    assert str(worth(out)) == "80.0% [71.1, 86.7]" and worth(out).name == "accuracy"
    assert worth(out, "exact_match,sampled").value == 0.5
    assert worth(out, "logp") is None and worth(Iteration(tmp_path)) is None


def test_perplexity_has_the_interval_of_its_logarithm(tmp_path):
    """2 exp(+- 1.96 x 0.1 / 2)"""
    known = worth(policy(tmp_path / "a", perplexity=estimate(2.0, stderr=0.1)))
    assert (known.low, known.high) == pytest.approx((1.8133, 2.2059), abs=1e-4)
    assert str(known) == "2 [1.813, 2.206]" and known.name == "perplexity"
    assert str(worth(policy(tmp_path / "b", perplexity=estimate(2.0)))) == "2"


def test_a_change_in_words(tmp_path):
    """2 of 4, then all of them; without the answers the numbers alone."""
    first = policy(tmp_path / "a", **{"exact_match,greedy": estimate(0.5)})
    last = policy(tmp_path / "b", **{"exact_match,greedy": estimate(1.0)})
    assert change(first, last, "exact_match,greedy").numbers == "50.0% to 100.0%"
    answer(first, [True, True, False, False])
    answer(last, [True, True, True, True])
    changed = change(first, last, "exact_match,greedy")
    assert changed.numbers.startswith("50.0% to 100.0%, +50.0 points [")
    assert changed.verdict == "no clear change" and changed.over.low < 0
    assert change(first, last, "perplexity") is None


def test_better_is_above_for_shares_and_below_for_perplexity():
    over = Interval(-2.0, -3.0, -1.0, 0.01, 1.0, 1)
    assert (SHARE.verdict(over), PERPLEXITY.verdict(over)) == ("worse", "better")
    assert Change(PERPLEXITY, 8.0, 7.84, over).numbers == "8 to 7.84, -2.0% [-3.0, -1.0]"
    assert Change(SHARE, None, 40.0, None).numbers == "40.0%"


def test_gain_in_points_over_the_same_prompts(tmp_path):
    """2 of 4 become right, none wrong: 50 points, whatever the others were."""
    first, last = policy(tmp_path / "a"), policy(tmp_path / "b")
    answer(first, [True, True, False, False])
    answer(last, [True, True, True, True])
    points = gain(first, last, "exact_match,greedy")
    assert points.mean == 50 and points.num_prompts == 4 and points.low < 50 < points.high
    assert gain(first, last, "exact_match,sampled") is None


def test_gain_of_perplexity_in_percent(tmp_path):
    """-8 to -6 nats over 10 tokens: 0.2 nats a token less, exp(-0.2) - 1"""
    first, last = policy(tmp_path / "a"), policy(tmp_path / "b")
    score(first, [-4.0, -4.0], [4, 6])
    score(last, [-3.5, -2.5], [4, 6])
    percent = gain(first, last, "perplexity")
    assert percent.mean == pytest.approx(100 * math.expm1(-0.2))
    assert percent.low < percent.mean < percent.high
    assert gain(first, policy(tmp_path / "c"), "perplexity") is None


def test_a_difference_in_nats_a_token_counts_all_tokens_alike():
    """(-1 + -5) / (2 + 10); where it is the same of every token there is no spread."""
    over = per_token(np.array([[-1.0, -5.0]]), np.array([2.0, 10.0]))
    assert (over.mean, over.low, over.high) == pytest.approx((-0.5, -0.5, -0.5))
    over = per_token(np.array([[-1.0, -2.0]]), np.array([2.0, 10.0]))
    assert over.mean == pytest.approx(-0.25) and over.low < -0.25 < over.high
    assert per_token(np.empty((1, 0)), np.empty(0)) is None
