"""The least time a training step and a step of decoding can take: a roofline, computed.

Operations at the rate of a card's matrix products, bytes at the rate of its memory, and the larger
of the two: both at once, without a launch, a wait or a byte too many. A measured time is held
against it. Not what will be measured (planning/hours.py estimates that).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tspin.config.run import Run
from tspin.planning.cards import Card
from tspin.planning.disk import BYTES, optimizer_tensors, state_dtype, weights_dtype
from tspin.planning.memory import Device, dtypes
from tspin.planning.shapes import Shape


@dataclass(frozen=True)
class Floor:
    """seconds, and what of them is arithmetic and what traffic; tokens that are done in them."""

    seconds: float
    flops: float
    traffic: float
    tokens: float
    binds: str  # "arithmetic" or "traffic"

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt, and of the response of each role."""

    prompt: int
    responses: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """The prompt once; a response's last token is fed to nothing."""
        return self.prompt + sum(n - 1 for n in self.responses)

    @property
    def pairs(self) -> float:
        """Of a query and a key that it sees."""
        fed = [n - 1 for n in self.responses]
        seen = sum(n * self.prompt + n * (n + 1) / 2 for n in fed)
        return self.prompt * (self.prompt + 1) / 2 + seen


def training(shape: Shape, run: Run, lengths: Lengths, card: Card, *, device: Device) -> Floor:
    """Of one optimiser step of optim.batch_size triplets of these lengths, on one card.

    Per weight and token 2 operations forward, 2 for the gradient by its input, 2 by itself where it
    is trained; 2 more forward where layers are checkpointed. Per micro-batch weights are read in
    each of these passes, cast to the dtype of the products where that is another, and gradients are
    read and written; what is kept for the backward pass is written and read.
    """
    held, products = dtypes(run, device)
    p, own = BYTES[products], BYTES[weights_dtype(run)]
    lora, again = run.model.lora, run.compute.gradient_checkpointing
    trained = shape.trained(lora)
    batch = run.optim.batch_size
    passes = math.ceil(batch / _at_a_time(run, lengths))
    each = 3 - (lora is not None)  # of forward, gradient by the input, gradient by the weight
    layers = 2 * shape.linear * lengths.tokens * (each + again)
    if lora is not None:
        layers += 2 * trained * lengths.tokens * (3 + again)
    head = 2 * shape.head * sum(lengths.responses) * each
    attention = 4 * shape.layers * shape.heads * shape.head_dim * lengths.pairs * (3 + again)
    flops = batch * (layers + head + attention)

    cast = BYTES[held] + p if held != products else 0
    weights = (shape.linear * (2 + again) + 2 * shape.head) * p + shape.linear * cast * (1 + again)
    gradients = 2 * trained * own
    kept = 2 * lengths.tokens * shape.layers * shape.hidden * BYTES[held]  # a layer's input
    logits = 2 * sum(lengths.responses) * shape.vocab * 4
    traffic = passes * (weights + gradients) + batch * (kept + logits)
    # The update comes after all of them: weights, gradients and state read, the first and last
    # written.
    state = optimizer_tensors(run.optim) * BYTES[state_dtype(run)]
    update = trained * (3 * own + 2 * state)
    passed = max(flops / card.flops, traffic / card.traffic)
    return Floor(
        seconds=passed + update / card.traffic,
        flops=flops,
        traffic=traffic + update,
        tokens=batch * (lengths.prompt + sum(lengths.responses)),
        binds=_binds(flops, traffic, card),
    )


def sampling(shape: Shape, run: Run, lengths: Lengths, card: Card, *, device: Device) -> Floor:
    """Of one step of decoding: a token for each of decoding.batch_size rows, halfway through.

    All weights are read once, and the keys and values of every row. The prompts' own passes are no
    part of it.
    """
    held, products = dtypes(run, device)
    p, rows = BYTES[products], run.decoding.batch_size
    length = lengths.prompt + max(lengths.responses) / 2
    keys = 2 * shape.layers * shape.kv_heads * shape.head_dim * p
    size = {"8bit": 1.0, "4bit": 0.5, None: float(p)}[run.model.quantize]
    weights = shape.linear * size + shape.head * (BYTES[held] if shape.tied else p)
    traffic = weights + rows * length * keys
    attention = 4 * shape.layers * shape.heads * shape.head_dim * length
    flops = rows * (2 * (shape.linear + shape.head) + attention)
    return Floor(
        seconds=max(flops / card.flops, traffic / card.traffic),
        flops=flops,
        traffic=traffic,
        tokens=rows,
        binds=_binds(flops, traffic, card),
    )


def lengths_of(run: Run, prompt: int, responses: Sequence[int]) -> Lengths:
    """With a response for each role of the run's objective; the last is that of the others too."""
    roles = len(run.loss_at(1).roles)
    return Lengths(prompt, tuple(responses[min(i, len(responses) - 1)] for i in range(roles)))


def _at_a_time(run: Run, lengths: Lengths) -> int:
    """Triplets of a micro-batch."""
    if run.compute.max_tokens is None:
        return run.compute.micro_batch
    return max(1, run.compute.max_tokens // (lengths.prompt + sum(lengths.responses)))


def _binds(flops: float, traffic: float, card: Card) -> str:
    return "arithmetic" if flops / card.flops >= traffic / card.traffic else "traffic"
