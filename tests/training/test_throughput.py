"""How fast a step was, by hand: one triplet of a prompt of 3 tokens and responses of 4, 2 and 1."""

from dataclasses import replace

import pytest
import torch
from support.tiny import random_policy, triplet
from torch.utils.flop_counter import FlopCounterMode
from transformers import MambaConfig, MambaForCausalLM

from tspin.data.triplets import num_padding, num_tokens, num_useful
from tspin.tracking.report import speed as means
from tspin.training import throughput
from tspin.training.cut import Cut
from tspin.training.throughput import Speed

ROLES = ("annotated", "synthetic", "proto")
ONE = triplet("a", [5, 6, 7], [1, 2, 3, 4], [1, 2], [1])
CUT = Cut(4, None)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """One that does 1e6 operations a second."""
    monkeypatch.setattr(throughput, "matmul_rate", lambda device, dtype: 1e6)


def test_a_prompt_counts_once_a_sequence_or_once_a_triplet():
    assert num_tokens([ONE], ROLES) == 3 * 3 + 7
    assert num_useful([ONE], ROLES) == 3 + 7
    assert num_padding([ONE], ROLES) == 3 * 7 - 16  # the longest sequence has 7


@pytest.mark.parametrize("attention", ["plain", "auto", "shared", "separate"])
def test_tokens_and_padding_of_a_step(attention):
    found = Speed(random_policy(attention=attention), ROLES).of_step([ONE], CUT, 0.5)
    assert (found["tokens_per_second"], found["useful_tokens_per_second"]) == (32, 20)
    assert found["padding_share"] == (5 / 21 if attention == "plain" else 0)


def test_padding_is_of_the_micro_batches_as_they_were_cut():
    """Cut one by one a batch of pairs has the padding of each; all at once more."""
    batch = [triplet(i, [5], [1] * n, [1] * n) for i, n in enumerate((1, 3, 9))]
    of = Speed(random_policy(attention="plain"), ROLES[:2])
    shares = {size: of.of_step(batch, Cut(size, None), 1.0)["padding_share"] for size in (1, 2, 3)}
    assert shares == {1: 0, 2: 2 * 6 / (2 * 22), 3: 2 * 14 / (2 * 30)}
    by_tokens = Cut(4, 8)  # 20 alone, 8, 4: the last two do not fit together
    assert of.of_step(batch, by_tokens, 1.0)["padding_share"] == 0


def test_arithmetic_of_a_step_by_hand():
    """The tiny Llama: 2 layers, hidden 32, 4 heads of 8, 2 of keys, 48 between, 294 words."""
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    tokens, responses = 10, 7
    pairs = 9 / 2 + (3 * 4 + 16 / 2) + (3 * 2 + 4 / 2) + (3 * 1 + 1 / 2)
    forward = 2 * (2 * layer * tokens + 294 * 32 * responses) + 4 * 2 * 32 * pairs
    found = Speed(random_policy(), ROLES).of_step([ONE], CUT, 2.0)
    assert found["flop_utilisation"] == pytest.approx(3 * forward / 2.0 / 1e6, rel=1e-12)


def test_but_for_attention_the_estimate_is_what_torch_counts():
    """The plain path without padding and repetition, which projects the last token for nothing."""
    policy = random_policy(attention="plain", dtype=torch.float32)
    alone = triplet("a", [5] * 20, [1] * 30)
    with FlopCounterMode(display=False) as counter:
        policy.logps([alone], ("annotated",)).annotated.sum().backward()
    work = replace(throughput._work(policy.model), queries=0)  # unknown to the counter on a CPU
    last = 3 * 2 * 32 * 294
    # transformers before 5.18 or so forms the angles of positions by a product too.
    angles = 2 * 4 * 50
    left = counter.get_total_flops() - work.flops([alone], ("annotated",)) - last
    assert left in (0, angles)


def test_an_architecture_that_cannot_be_counted_has_no_estimate():
    shape = MambaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1)
    assert throughput._work(MambaForCausalLM(shape)) is None


def test_no_step_uses_more_than_there_is():
    """1e6 operations a second were measured; a step that does more shows that there is more, and
    the next one, at half its speed, uses half of that."""
    speed = Speed(random_policy(), ROLES)
    shares = [speed.of_step([ONE], CUT, t)["flop_utilisation"] for t in (1e-3, 2e-3, 5e-4, 1e-3)]
    assert shares == [1, 0.5, 1, 0.5]


def test_means_are_over_the_time_and_of_what_every_step_has():
    """100 tokens in 1 s and 100 in 3 s: 50 tokens a second."""
    rows = [{"seconds": s, "tokens_per_second": 100 / s, "padding_share": 0.0} for s in (1, 3)]
    assert means(rows) == {"tokens_per_second": 50, "padding_share": 0}
    assert means([{"seconds": 1.0}]) == {}
