"""Warnings that the first step of a run gives, with a number to set."""

import logging
import math
import re

import pytest
from support.tiny import compose, play

from tspin.selfplay import banner, first_step

DATA = {"num_train": 8, "num_heldout": 2, "num_prompts_cut": 0, "num_responses_cut": 0}
CPU = {"dtype": "float32", "device": "cpu", "weights": "float32"}


@pytest.mark.parametrize(
    ("loss", "key"), [("tspin", "coef.alpha"), ("wo_ha", "coef.alpha"), ("spin", "coef.lambda")]
)
def test_the_number_to_set_leaves_a_tenth(loss, key):
    """log 9 / 40 = 0.0549, so sigmoid(-0.054 * 40) = .103"""
    row = {"iteration": 0, "weights/current": 0.001, "advantages/current": 40.0}
    message = first_step.little_gradient(compose(f"loss={loss}"), row, mean_tokens=100)
    value = float(re.search(rf"{key}=([0-9.]+) ", message)[1])
    assert value == 0.054
    assert 0.1 <= 1 / (1 + math.exp(value * 40)) < 0.11


def test_enough_gradient_or_none_to_measure_is_no_warning():
    run = compose("loss=tspin")
    row = {"iteration": 0, "weights/current": 0.1, "advantages/current": 40.0}
    assert first_step.little_gradient(run, row, mean_tokens=100) is None
    assert first_step.little_gradient(run, {"loss": 1.0}, mean_tokens=100) is None


def test_alpha_by_length_is_named_where_it_leaves_more():
    """512 tokens: half the paper's alpha of 1. At 100 tokens it is 2.56, and no way out."""
    row = {"iteration": 0, "weights/current": 0.001, "advantages/current": 40.0}
    words = "coef.alpha=auto makes it 0.5, by the length of the responses"
    run = compose("loss=tspin")
    assert words in first_step.little_gradient(run, row, mean_tokens=512)
    assert "auto" not in first_step.little_gradient(run, row, mean_tokens=100)
    assert "auto" not in first_step.little_gradient(compose("loss=spin"), row, mean_tokens=512)


def test_most_rows_cut():
    run = compose()
    assert first_step.rows_cut(run, DATA | {"num_prompts_cut": 5}) is None
    message = first_step.rows_cut(run, DATA | {"num_prompts_cut": 6})
    assert message.startswith("6 prompts and 0 responses of 10 rows are cut: a larger model.max_l")


@pytest.mark.parametrize(
    ("words", "cut", "named"),
    [
        ((), "prompts", {"model.max_length"}),
        ((), "responses", {"model.max_length"}),
        (("model.max_prompt_length=8",), "prompts", {"model.max_prompt_length"}),
        (("model.max_prompt_length=8",), "responses", {"model.max_length"}),
        (("model.max_prompt_length=8",), "both", {"model.max_prompt_length", "model.max_length"}),
        (("model.max_length=40", "decoding.max_new_tokens=32", "model.max_prompt_length=8"),
         "prompts", {"model.max_length"}),
    ],
)  # fmt: skip
def test_the_limit_that_cut_is_named_by_banner_and_warning_alike(words, cut, named):
    """The last: a prompt may have all that max_length leaves, 40 - 32."""
    run = compose(*words)
    counted = {f"num_{what}_cut": 9 for what in ("prompts", "responses") if cut in (what, "both")}
    message = first_step.rows_cut(run, DATA | counted)
    assert {*re.findall(r"model\.\w+", message)} == named
    banner_line = banner.rows(run, DATA | counted, [], {}, CPU).splitlines()[-1]
    assert {*re.findall(r"model\.\w+", banner_line)} == named


@pytest.mark.runs
def test_a_saturated_run_is_warned_at_its_first_step_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "tspin")
    # y' nearly uniform over the tokens: y is likelier by far on every pair.
    hot = ("decoding.sample=true", "decoding.temperature=50", "decoding.top_k=null")
    play(tmp_path, "tspin", "coef.alpha=10", "selfplay.iterations=1", *hot)
    lines = [record.message for record in caplog.records if "at the first step" in record.message]
    assert len(lines) == 1
    assert "iteration 0: the mean pair keeps" in lines[0]
