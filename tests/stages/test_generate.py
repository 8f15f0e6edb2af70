"""Sampling: right distribution, a function of (seed, iteration, prompt id), ids as sampled."""

from dataclasses import replace

import pytest
import torch
from support.tiny import PROMPTS, compose, random_policy

from tspin.runs.artifacts import Responses
from tspin.sampling.native import Native, pick, respond, uniforms
from tspin.sampling.requests import Draws, Request, sample_seed
from tspin.stages.generate import generate


@pytest.fixture(scope="module")
def policy():
    return random_policy(scale=0.4)


@pytest.fixture(scope="module")
def decoding():
    return replace(compose().decoding, max_new_tokens=12, batch_size=5)


def sample(policy, folder, how, *, seed=0, t=1, prompts=PROMPTS):
    out = Responses(folder)
    generate(Native(policy), prompts, out, Draws(how, seed, t), label="test", facts={})
    return out


def test_a_number_picks_the_token_whose_interval_it_falls_into():
    """P = 0.2, 0.3, 0.5: intervals [0, 0.2), [0.2, 0.5), [0.5, 1); a token of mass 0 is never
    picked, not even by the ends."""
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.25, 0.5, 0.0]]).double()
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.4999, 0.5, 1 - 2**-53]).double()
    assert pick(probabilities.log().repeat(6, 1), numbers).tolist() == [1, 1, 3, 3, 4, 4]


@pytest.mark.slow
def test_samples_follow_the_policys_distribution(policy, decoding):
    """First tokens of 4000 prompts that are the same text: a chi-square-like bound per token."""
    ids = [f"p{i}" for i in range(4000)]
    how = replace(decoding, max_new_tokens=1)
    found = respond(policy, [Request([5, 6], sample_seed(0, 0, i), 1.0) for i in ids], how)
    counts = torch.bincount(torch.tensor(found).flatten(), minlength=294).double()
    with torch.no_grad():
        p = policy.model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    deviation = (counts - 4000 * p).abs() / (4000 * p * (1 - p)).sqrt().clamp_min(1)
    assert deviation.max() < 5


def test_every_prompt_has_numbers_of_its_own():
    ours = uniforms(sample_seed(0, 1, "a"), 4)
    assert torch.equal(ours, uniforms(sample_seed(0, 1, "a"), 4))
    seeds = [
        sample_seed(1, 1, "a"),
        sample_seed(0, 2, "a"),
        sample_seed(0, 1, "b"),
        sample_seed(0, 1, "a", draw=1),
    ]
    others = [uniforms(seed, 4) for seed in seeds]
    assert not any(torch.equal(ours, other) for other in others)


@pytest.mark.slow
def test_batch_size_changes_no_sample_in_float64(policy, decoding, tmp_path):
    by_size = [
        sample(policy, tmp_path / str(size), replace(decoding, batch_size=size)).ids()
        for size in (1, 5, 23)
    ]
    assert by_size[0] == by_size[1] == by_size[2]


def test_seed_and_iteration_change_samples(policy, decoding, tmp_path):
    one = sample(policy, tmp_path / "a", decoding, seed=0, t=1).ids()
    assert one != sample(policy, tmp_path / "b", decoding, seed=1, t=1).ids()
    assert one != sample(policy, tmp_path / "c", decoding, seed=0, t=2).ids()


def test_a_restart_makes_the_same_parts_bit_for_bit(policy, decoding, tmp_path):
    whole = sample(policy, tmp_path / "whole", decoding)
    broken = sample(policy, tmp_path / "broken", decoding)
    broken.manifest.unlink()
    broken.part(1).unlink()
    assert not broken.exists()
    kept = broken.part(0).stat().st_mtime_ns
    sample(policy, tmp_path / "broken", decoding)
    assert broken.part(0).stat().st_mtime_ns == kept
    for i in range(whole.facts()["num_parts"]):
        assert whole.part(i).read_bytes() == broken.part(i).read_bytes()


def test_eos_is_there_if_and_only_if_the_model_produced_it(policy, decoding, tmp_path):
    """Trap 3: a sample cut at max_new_tokens gets no EOS, a stopped one ends with its own."""
    rows = sample(policy, tmp_path, replace(decoding, max_new_tokens=40)).rows()
    stop = policy.renderer.eos_id
    reasons = {row["finish_reason"] for row in rows}
    assert reasons == {"stop", "length"}  # the random model does both
    for row in rows:
        assert row["response_ids"].count(stop) == (row["finish_reason"] == "stop")
        assert (row["response_ids"][-1] == stop) == (row["finish_reason"] == "stop")
        assert (row["num_tokens"] == 40) or row["finish_reason"] == "stop"
        assert row["num_tokens"] == len(row["response_ids"])


def test_greedy_is_transformers_greedy(policy, decoding):
    prompts = list(PROMPTS.values())[:7]
    ours = respond(policy, [Request(prompt, None, 1.0) for prompt in prompts], decoding)
    for prompt, response in zip(prompts, ours, strict=True):
        theirs = policy.model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12,
            eos_token_id=policy.renderer.stop_ids, pad_token_id=0,
        )[0, len(prompt):].tolist()  # fmt: skip
        assert response == theirs


@pytest.mark.slow
def test_filters_and_temperature_are_applied(policy, decoding, tmp_path):
    greedy = sample(policy, tmp_path / "greedy", replace(decoding, sample=False)).ids()
    for name, change in {
        "cold": {"temperature": 1e-4},
        "k": {"top_k": 1},
        "p": {"top_p": 1e-6},
        "min_p": {"min_p": 1.0},
    }.items():
        assert sample(policy, tmp_path / name, replace(decoding, **change)).ids() == greedy
    assert sample(policy, tmp_path / "warm", decoding).ids() != greedy


def test_a_text_column_is_for_people_and_ids_are_what_was_sampled(policy, decoding, tmp_path):
    """Trap 2: re-encoding the text would give other ids for some rows of a random model."""
    rows = sample(policy, tmp_path, decoding).rows()
    again = [policy.renderer.response_ids(row["response"]) for row in rows]
    assert any(a != row["response_ids"] for a, row in zip(again, rows, strict=True))
