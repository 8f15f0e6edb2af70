"""Least times by hand, and a measured step that is not under its own."""

import math
import time

import pytest
import torch
from support.tiny import compose, random_policy, triplet

from tspin.planning import cards, roofline, shapes
from tspin.planning.cards import CARDS, Card
from tspin.planning.roofline import Lengths
from tspin.planning.shapes import Shape
from tspin.policy.rates import matmul_rate
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.parallel import Strategy
from tspin.training.recipe import Recipe
from tspin.training.step import gradient_step

# A layer's matrices: 4 x 4 twice, 4 x 2 twice, 4 x 8 three times: 144.
SMALL = Shape(10, 4, 8, layers=2, heads=2, kv_heads=1, head_dim=2, tied=False)
LENGTHS = Lengths(3, (2, 2, 2))
WORDS = ("compute.device=cpu", "compute.gradient_checkpointing=false", "compute.max_tokens=null")
RUN = compose(*WORDS, "optim.batch_size=4", "compute.micro_batch=2", "decoding.batch_size=5")
ARITHMETIC = Card("a card that only computes", 0, flops=1, traffic=math.inf, source="")
TRAFFIC = Card("a card that only moves", 0, flops=math.inf, traffic=1, source="")
MISTRAL = shapes.KNOWN["mistralai/Mistral-7B-v0.1"]


def test_a_stream_by_hand():
    """x of 3 and three responses of which the first token alone is fed, seeing x and itself."""
    assert LENGTHS.tokens == 3 + 3 * 1
    assert LENGTHS.pairs == (1 + 2 + 3) + 3 * 4


def test_operations_of_a_step_by_hand():
    """6 a weight of the layers and token, 6 a weight of the head and response token, 12 a number of
    the queries and pair; a layer has 4 of those."""
    triplet = 6 * 288 * 6 + 6 * 40 * 6 + 12 * 2 * 4 * 18
    floor = roofline.training(SMALL, RUN, LENGTHS, ARITHMETIC, device="cpu")
    assert floor.flops == floor.seconds == 4 * triplet == 54144
    assert floor.binds == "arithmetic"
    assert floor.tokens_per_second == pytest.approx(4 * 9 / 54144)


def test_a_layer_that_is_computed_again_takes_a_third_more():
    again = compose(*WORDS, "optim.batch_size=4", "compute.gradient_checkpointing=true")
    floor = roofline.training(SMALL, again, LENGTHS, ARITHMETIC, device="cpu")
    assert floor.flops == 4 * (8 * 288 * 6 + 6 * 40 * 6 + 16 * 2 * 4 * 18)


def test_bytes_of_a_step_by_hand():
    """372 weights: 288, a head and an embedding of 40, a norm of 4. Two micro-batches read layers
    and head twice and read and write gradients; of each triplet 6 states of 4 numbers in 2 layers
    and 6 rows of 10 logits are written and read. The update touches five numbers a weight.
    """
    micro_batch = 4 * (2 * 288 + 2 * 40) + 4 * 2 * 372
    triplet = 4 * (2 * 6 * 2 * 4) + 4 * (2 * 6 * 10)
    floor = roofline.training(SMALL, RUN, LENGTHS, TRAFFIC, device="cpu")
    assert floor.traffic == floor.seconds == 2 * micro_batch + 4 * triplet + 5 * 4 * 372
    assert floor.binds == "traffic"


def test_a_step_of_decoding_by_hand():
    """Layers and head once; of 5 rows of 4 columns a key and a value of 2 numbers in 2 layers."""
    floor = roofline.sampling(SMALL, RUN, LENGTHS, TRAFFIC, device="cpu")
    assert floor.seconds == 4 * (288 + 40) + 5 * 4 * (2 * 2 * 2 * 4) == 1952
    floor = roofline.sampling(SMALL, RUN, LENGTHS, ARITHMETIC, device="cpu")
    assert floor.seconds == 5 * (2 * 328 + 4 * 2 * 4 * 4) == 3920
    assert floor.tokens == 5


def test_a_7b_on_the_cards_it_is_trained_on():
    """42.4e12 operations a triplet of 200, 330 + 230 + 230 tokens; 14.2 GB are read for a token."""
    run = compose("model=mistral", "compute=cuda", "compute.gradient_checkpointing=false")
    lengths = Lengths(200, (330, 230, 230))
    h100, h200 = CARDS["h100"], CARDS["h200"]
    step = roofline.training(MISTRAL, run, lengths, h100, device="cuda")
    assert step.flops / run.optim.batch_size == pytest.approx(42.4e12, rel=2e-3)
    assert step.binds == "arithmetic"
    alone = compose("model=mistral", "compute=cuda", "decoding.batch_size=1")
    token = roofline.sampling(MISTRAL, alone, lengths, h200, device="cuda")
    assert token.binds == "traffic"
    assert token.seconds == pytest.approx(14.22e9 / 4.8e12, rel=5e-3)
    quantized = compose(
        *("model=mistral", "compute=cuda", "decoding.batch_size=1"),
        *("lora=default", "model.quantize=4bit"),
    )
    packed = roofline.sampling(MISTRAL, quantized, lengths, h200, device="cuda")
    assert packed.seconds / token.seconds == pytest.approx(3.8 / 14.3, rel=0.02)


def test_frozen_weights_have_no_gradient():
    full = compose("model=mistral", "compute=cuda", "compute.gradient_checkpointing=false")
    lora = compose(
        *("model=mistral", "compute=cuda", "compute.gradient_checkpointing=false", "lora=default")
    )
    lengths = Lengths(200, (330, 230, 230))
    floors = [
        roofline.training(MISTRAL, run, lengths, CARDS["h100"], device="cuda")
        for run in (full, lora)
    ]
    assert floors[1].flops / floors[0].flops == pytest.approx(2 / 3, rel=0.02)


def test_lengths_are_those_of_the_objective_s_roles():
    assert roofline.lengths_of(RUN, 3, [5, 4]) == Lengths(3, (5, 4, 4))
    sft = compose("loss=sft")
    assert roofline.lengths_of(sft, 3, [5, 4]) == Lengths(3, (5,))


@pytest.mark.slow
def test_a_measured_step_is_not_under_its_floor():
    """A tiny model on this CPU, at the rate that is measured of its matrix products."""
    run = compose(*WORDS, "optim.batch_size=8", "compute.micro_batch=4", "compute.dtype=float32")
    policy = random_policy(dtype=torch.float32)
    shape = shapes.of(policy.model.config.to_dict(), "a test")
    assert shape.parameters == sum(p.numel() for p in policy.model.parameters())
    prompt, response = [5] * 20, [6] * 40
    batch = [triplet(i, prompt, response, response, response) for i in range(8)]
    recipe = Recipe(loss=run.loss_at(1), optim=run.optim, compute=run.compute, seed=0, t=1)
    optimizer = build_optimizer(policy, run.optim)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        gradient_step(
            Strategy(policy), optimizer, batch, recipe, Cut.of(run.compute), where="a test"
        )
        seconds.append(time.perf_counter() - started)
    card = cards.this_cpu(matmul_rate(torch.device("cpu"), torch.float32))
    floor = roofline.training(shape, run, Lengths(20, (40, 40, 40)), card, device="cpu")
    assert 0 < floor.seconds < min(seconds)
