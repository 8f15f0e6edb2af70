"""Time of a run, estimated: tokens and arithmetic over assumed constants.

An estimate: no run has confirmed it, allow a factor of two. docs/reproduce.md says where each
constant comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tspin.config.run import Run
from tspin.planning.shapes import Shape

LENGTHS = {  # tokens: prompt, annotated response, longest response of a triplet
    "short": (27, 151, 281),  # measured on 999 instructions; samples as long as max_new_tokens
    "long": (256, 320, 384),  # assumed
}
STAGES = ("sample", "score", "train")


@dataclass(frozen=True)
class Machine:
    """What is assumed of one GPU.

    flops    operations a second that padded rows in bfloat16 sustain
    traffic  bytes a second between memory and processor
    layer    seconds at least for one layer's forward kernels, however small
    """

    flops: float
    traffic: float = 4.0e12
    layer: float = 1.0e-3

    @classmethod
    def assumed(cls, shape: Shape) -> Machine:
        """300 TFLOP/s for matrices of a 7B, 80 for small ones: an H200's, a third of nominal."""
        return cls(flops=300e12 if shape.hidden >= 2048 else 80e12)


def stages(
    run: Run, t: int, shape: Shape, machine: Machine, lengths: str, *, y0: bool
) -> list[float]:
    """Seconds to sample, score and train in iteration t on one GPU; y' of iteration 0 is y0.

    lengths  one of LENGTHS
    y0       whether it has to be sampled first
    """
    size, everything = run.data.size or 0, (run.data.size or 0) + run.data.heldout
    loss, sampled = run.loss_at(t), run.loss_at(1).roles != ("annotated",)
    prompts = sampled * (run.data.heldout + everything * (y0 + (t > 0)))
    prompt, annotated, longest = LENGTHS[lengths]
    length = prompt + (longest if sampled else annotated)

    def at_a_time(rows: int, size: int) -> int:
        """Triplets of a pass. size: where they are not cut by tokens"""
        tokens = run.compute.max_tokens
        return size if tokens is None else max(1, tokens // (rows * length))

    present = 2 + (t > 0) if sampled else 1
    scored = [(present, at_a_time(present, run.compute.score_batch))]
    micro = at_a_time(len(loss.roles), run.compute.micro_batch)
    if loss.reference_roles:  # in the batches of training
        scored.append((len(loss.reference_roles), micro))
    # Traffic per micro-batch: float32 weights read and bfloat16 written; in training twice, and
    # gradients added up. Backward is two forward passes of arithmetic and one of launches; of
    # weights that are not trained one of arithmetic, and they are held as they are multiplied.
    frozen = run.model.lora is not None
    cast = 0.0 if frozen else 6 * shape.parameters / machine.traffic
    passes = [(math.ceil(everything / n), n * rows) for rows, n in scored]
    score = sum(number * (forward(shape, machine, rows, length) + cast) for number, rows in passes)
    again, before = run.compute.gradient_checkpointing, loss.needs_batch
    rows = micro * len(loss.roles)
    more = again + before
    once = forward(shape, machine, rows, length, work=3 - frozen + more, passes=2 + more)
    train = run.optim.epochs * math.ceil(size / micro) * (once + (5 + before) * cast)
    how = run.decoding
    sample = decode(shape, machine, prompts, prompt, how.max_new_tokens, how.batch_size)
    return [sample, score, train]


def forward(
    shape: Shape, machine: Machine, rows: int, length: int, *, work: int = 1, passes: int = 1
) -> float:
    """Seconds of `work` times the arithmetic of a forward pass, in `passes` passes of launches."""
    attention = 4 * shape.layers * shape.hidden * length
    arithmetic = work * rows * length * (2 * shape.parameters + attention)
    return max(arithmetic / machine.flops, passes * shape.layers * machine.layer)


def decode(
    shape: Shape, machine: Machine, prompts: int, length: int, tokens: int, batch: int
) -> float:
    """Seconds of sampling: a batch runs until its longest answer ends, taken to be the limit."""
    step = max(
        shape.layers * machine.layer,
        2 * shape.parameters * batch / machine.flops,
        2 * shape.parameters / machine.traffic,
    )
    return math.ceil(prompts / batch) * (forward(shape, machine, batch, length) + tokens * step)
