"""Scoring where memory runs out: in smaller parts, the same log-probabilities."""

from dataclasses import replace

import pytest
import torch
from support.tiny import random_policy, random_triplets

from tspin.data.triplets import num_tokens
from tspin.objectives import ROLES
from tspin.stages.score import score


@pytest.fixture(scope="module")
def batches():
    return [[replace(x, id=f"{k} {x.id}") for x in random_triplets(6, seed=k)] for k in range(3)]


def limited(policy, tokens):
    """The policy on a device with memory for `tokens` ids in a forward pass. -> ids of each pass"""
    passes = []

    def take(module, args, options):
        passes.append(options["input_ids"].numel())
        if passes[-1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore")

    policy.model.base_model.register_forward_pre_hook(take, with_kwargs=True)
    return passes


@pytest.mark.parametrize("attention", ["plain", "auto"])
def test_a_batch_that_does_not_fit_is_scored_in_parts(attention, batches, caplog):
    """In float64; and the batches after it are cut at once."""
    policy = random_policy(attention=attention)
    assert (policy.packed is None) == (attention == "plain")
    passes = limited(policy, 10**9)
    whole = score(policy, batches, ROLES, label="score")
    limit = max(passes) * 3 // 4
    passes = limited(policy, limit)
    parts = score(policy, batches, ROLES, label="iteration 1: score")
    assert parts.keys() == whole.keys() and len(whole) == 3 * 6 * 3
    assert list(parts.values()) == pytest.approx([whole[key] for key in parts], abs=1e-9)
    failures = sum(size > limit for size in passes)
    assert 0 < failures == len(caplog.messages) < len(batches)
    first = next(i for i, size in enumerate(passes) if size > limit)
    tokens = num_tokens(batches[first], ROLES) // 2
    assert caplog.messages[0] == (
        "iteration 1: score: CUDA out of memory. Tried to allocate 1 GiB.; from here on at most "
        f"{tokens} tokens at a time (compute.max_tokens), the log-probabilities are the same"
    )


def test_a_triplet_that_does_not_fit_alone_is_an_error(batches):
    policy = random_policy()
    assert policy.packed is not None
    limited(policy, 1)
    with pytest.raises(torch.OutOfMemoryError, match="1 GiB"):
        score(policy, batches, ROLES, label="score")
