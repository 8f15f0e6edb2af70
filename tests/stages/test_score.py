"""Scoring where memory runs out: in smaller parts, the same log-probabilities."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.tiny import random_policy, random_triplets

from tspin.data.triplets import Triplet, num_tokens
from tspin.objectives import ROLES
from tspin.stages.score import score, shown, write_token_logps
from tspin.tools.parquet import read_rows


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
    whole, _ = score(policy, batches, ROLES, label="score")
    limit = max(passes) * 3 // 4
    passes = limited(policy, limit)
    parts, _ = score(policy, batches, ROLES, label="iteration 1: score")
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


@pytest.mark.parametrize("attention", ["plain", "auto"])
def test_tokens_are_those_of_the_sums(attention, batches):
    """In one pass, which gives the same bits whether they are asked for or not."""
    policy = random_policy(attention=attention)
    ids = {"0 3", "2 0"}
    logps, tokens = score(policy, batches, ROLES, label="score", with_tokens=ids)
    assert logps == score(policy, batches, ROLES, label="score").logps
    assert tokens.keys() == {key for key in logps if key[0] in ids}
    lengths = {(x.id, x.source, role): len(x.responses[role])
               for batch in batches for x in batch for role in ROLES}  # fmt: skip
    for key, values in tokens.items():
        assert len(values) == lengths[key] and values.dtype == np.float16
        assert values.astype(float).sum() == pytest.approx(logps[key], rel=1e-3)


def test_both_ways_have_the_same_tokens(batches):
    """Padded rows and streams, prompts of different lengths in one batch."""
    ids = {x.id for batch in batches for x in batch}
    plain, packed = (
        score(random_policy(attention=way), batches, ROLES, label="score", with_tokens=ids).tokens
        for way in ("plain", "auto")
    )
    assert plain.keys() == packed.keys() and len(plain) == 3 * 6 * 3
    for key, values in plain.items():
        np.testing.assert_allclose(values, packed[key], rtol=2e-3)


def test_the_same_prompts_are_kept_in_every_iteration():
    """Held-out first, by id."""
    splits = {"c": "heldout", "b": "train", "a": "train", "d": "heldout"}
    for t in (0, 1):
        triplets = [replace(random_triplets(1)[0], id=i, split=s, source=t)
                    for i, s in splits.items()]  # fmt: skip
        assert [x.id for x in shown(triplets[::-1], 3)] == ["c", "d", "a"]
    assert shown(triplets, 0) == []


def test_a_file_of_tokens_has_their_texts(tmp_path):
    """A character of two tokens stands with the second; the end is spelt out."""
    renderer = random_policy().renderer
    ids = renderer.response_ids("ab\u00e9")
    x = Triplet("p", "train", 0, [1], {"annotated": ids, "synthetic": ids[:1]})
    tokens = {("p", 0, "annotated"): np.arange(5, dtype=np.float16)}
    write_token_logps(tmp_path / "file", [x], tokens, renderer)
    (row,) = read_rows(tmp_path / "file")
    assert row == {"id": "p", "role": "annotated", "tokens": ["a", "b", "", "\u00e9", "</s>"],
                   "logps": [0, 1, 2, 3, 4]}  # fmt: skip


def test_tokens_of_a_few_responses_are_read_without_those_of_all(tmp_path):
    """Every response has a list of texts: a page that shows five prompts reads their row groups."""
    renderer = random_policy().renderer
    ids = renderer.response_ids("a")
    triplets = [Triplet(f"p{i}", "train", 0, [1], {"annotated": ids}) for i in range(600)]
    tokens = {(x.id, 0, "annotated"): np.zeros(len(ids), dtype=np.float16) for x in triplets}
    write_token_logps(tmp_path / "file", triplets, tokens, renderer)
    facts = pq.read_metadata(tmp_path / "file")
    assert [facts.row_group(i).num_rows for i in range(facts.num_row_groups)] == [256, 256, 88]


def test_a_triplet_that_does_not_fit_alone_is_an_error(batches):
    policy = random_policy()
    assert policy.packed is not None
    limited(policy, 1)
    with pytest.raises(torch.OutOfMemoryError, match="1 GiB"):
        score(policy, batches, ROLES, label="score")
