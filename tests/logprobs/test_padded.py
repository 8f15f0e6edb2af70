"""Summed log-probabilities: by hand, against an independent loop, and blind to padding."""

import math
from types import SimpleNamespace

import pytest
import torch
from support.tiny import random_model, random_triplets

from tspin.data.triplets import collate
from tspin.logprobs.padded import sequence_logps, token_logps
from tspin.objectives import ROLES, Logps


def by_loop(model, prompt, response):
    """log pi(response | prompt), one forward per token, straight from the definition."""
    total, ids = 0.0, list(prompt)
    for token in response:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        total += (logits - logits.logsumexp(0))[token].item()
        ids.append(token)
    return total


def flip(batch):
    """The same rows padded on the left."""
    lengths = batch.attention_mask.sum(1)
    width = batch.input_ids.shape[1]
    columns = (torch.arange(width) - (width - lengths[:, None])) % width
    return [x.gather(1, columns) for x in
            (batch.input_ids, batch.attention_mask, batch.response_mask)]  # fmt: skip


def logps_of(model, triplets, roles=ROLES):
    batch = collate(triplets, roles, pad_id=0)
    with torch.no_grad():
        return sequence_logps(model, batch.input_ids, batch.attention_mask, batch.response_mask)


def test_token_logps_by_hand():
    """Logits log 1, log 2, log 5 -> probabilities 1/8, 2/8, 5/8."""
    logits = torch.tensor([[[1.0, 2.0, 5.0]]]).log()
    assert token_logps(logits, torch.tensor([[2]])).item() == pytest.approx(math.log(5 / 8))


def test_half_precision_logits_are_normalised_in_float32():
    """In bfloat16 the normaliser of 50k equal logits would be off by up to 2%."""
    logits = torch.zeros(1, 1, 50_000, dtype=torch.bfloat16)
    found = token_logps(logits, torch.tensor([[7]]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-math.log(50_000), rel=1e-6)


def test_a_sum_over_response_tokens_by_definition():
    model = random_model()
    triplets = random_triplets(5, seed=3)
    found = logps_of(model, triplets)
    rows = [(x.prompt_ids, x.responses[r]) for r in ROLES for x in triplets]
    expected = [by_loop(model, prompt, response) for prompt, response in rows]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_padding_side_changes_nothing():
    model = random_model()
    batch = collate(random_triplets(6, seed=1), ROLES, pad_id=0)
    with torch.no_grad():
        right = sequence_logps(model, batch.input_ids, batch.attention_mask, batch.response_mask)
        left = sequence_logps(model, *flip(batch))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_batch_size_and_order_change_nothing():
    model = random_model()
    triplets = random_triplets(6, seed=2)
    together = logps_of(model, triplets, ("annotated",))
    alone = torch.cat([logps_of(model, [x], ("annotated",)) for x in triplets])
    turned = logps_of(model, triplets[::-1], ("annotated",)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(turned, together, rtol=1e-5, atol=1e-6)


def test_what_stands_in_the_padding_is_never_read():
    """Trap 3: pad may be EOS, or anything: rows are masked by length."""
    model = random_model()
    triplets = random_triplets(4, seed=5)
    one, other = (collate(triplets, ROLES, pad_id=pad) for pad in (0, 9))
    with torch.no_grad():
        found = [
            sequence_logps(model, b.input_ids, b.attention_mask, b.response_mask)
            for b in (one, other)
        ]
    assert torch.equal(*found)


def test_only_response_logits_are_asked_for():
    """Prompt positions that no loss reads are never projected onto the vocabulary."""
    asked = []

    def model(input_ids, logits_to_keep, **_):
        asked.append(logits_to_keep)
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 11)[:, -logits_to_keep:])

    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    response = torch.tensor([[False, False, False, False, True, True]])
    found = sequence_logps(model, ids, torch.ones_like(ids), response)
    assert asked == [3]  # the last prompt position and the two of the response
    assert found.item() == pytest.approx(2 * -math.log(11))


def test_roles_that_were_not_scored_are_no_zeros():
    logps = Logps(annotated=torch.zeros(1))
    assert logps.present() == ("annotated",)
    with pytest.raises(AssertionError, match="proto"):
        logps["proto"]
