"""A policy's training over processes: who computes what of a step, how gradients meet.

A batch is cut into micro-batches from the data alone and these are dealt out, so that the cut never
depends on the number of processes. Every gradient is a share of the batch's mean, and gradients are
summed. DDP (parallel) and FSDP2 (sharded) do the summing; one process needs neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tspin.data.triplets import Triplet
from tspin.distributed.world import ALONE, World
from tspin.logprobs.fused_head import LossFunction
from tspin.objectives import Logps, Role
from tspin.policy.policy import Policy
from tspin.tools.log import first_line


@dataclass(frozen=True)
class MicroBatch:
    """Triplets of one forward and backward pass of this process.

    number        of the micro-batch in its batch; None: this process has none left and computes
                  one again with weight 0, since others wait for its part in what all do together
    num_examples  of the whole batch
    is_last       of the step
    """

    number: int | None
    triplets: Sequence[Triplet]
    num_examples: int
    is_last: bool

    def share(self, total: Tensor) -> Tensor:
        """Of the batch's mean loss, given the sum of these triplets' losses."""
        return total * 0.0 if self.number is None else total / self.num_examples


def deal(micro_batches: Sequence[Sequence[Triplet]], world: World) -> Iterator[MicroBatch]:
    """Those of this process, as many as any other has: micro-batch i goes to rank i mod size.

    The longest come first, so that passes that wait for each other are of like size.
    """
    num_examples = sum(map(len, micro_batches))
    rounds = -(-len(micro_batches) // world.size)
    for k in range(rounds):
        number = k * world.size + world.rank
        is_last = k + 1 == rounds
        if number < len(micro_batches):
            yield MicroBatch(number, micro_batches[number], num_examples, is_last)
        else:
            yield MicroBatch(None, micro_batches[-1], num_examples, is_last)


class Strategy:
    """How a policy is trained by the processes of a world; here by one, which needs no other.

    shards  whether a process holds a part only of what is trained
    """

    def __init__(self, policy: Policy, world: World = ALONE) -> None:
        self.policy, self.world, self.shards = policy, world, False
        self._forward: Any = Forward(policy)

    def backward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction
    ) -> None:
        """Adds the gradient of its share of the batch's mean loss; on all processes together.

        Raises OutOfMemoryError on all of them or, where they can no longer agree, ValueError.
        """
        self._forward(micro_batch, roles, loss_function).backward()

    def logps(self, micro_batches: Sequence[Sequence[Triplet]], roles: tuple[Role, ...]) -> Logps:
        """log pi of all their triplets, in order, without gradient or dropout, on all processes.

        All of them call this. Raises what `backward` does.
        """
        model = self.policy.model
        trains = model.training
        model.eval()
        try:
            mine = self._logps_of(list(deal(micro_batches, self.world)), roles)
        finally:
            model.train(trains)
        if self.world.size > 1:
            of_all = self.world.gather({number: each.cpu() for number, each in mine.items()})
            mine = {number: each for part in of_all for number, each in part.items()}
        together = torch.cat([mine[number] for number in sorted(mine)], 1).to(self.policy.device)
        return Logps().with_values(dict(zip(roles, together, strict=True)))

    @torch.no_grad()
    def _logps_of(
        self, micro_batches: Sequence[MicroBatch], roles: tuple[Role, ...]
    ) -> dict[int, Tensor]:
        """(roles, triplets) of each of this process's, by its number."""
        mine = {}
        for micro_batch in micro_batches:
            logps = self._forward(micro_batch, roles, None)
            if micro_batch.number is not None:
                mine[micro_batch.number] = torch.stack([logps[role] for role in roles])
        return mine

    def clip(self, limit: float | None) -> float:
        """Scales the gradient down to a norm of `limit`. -> its norm before, in float32 at least"""
        parameters = list(self.policy.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([norm_of(g) for g in gradients]))
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return float(norm)

    def save(self, folder: Path) -> None:
        """The policy as a plain transformers folder."""
        self.world.main(self.policy.save, folder)


class Forward(nn.Module):
    """The share of a micro-batch as a module's forward pass: DDP and FSDP2 put hooks on it.

    Without a loss function: log pi of its triplets.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model, self.policy = policy.model, policy

    def forward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction | None
    ) -> Tensor | Logps:
        if loss_function is None:
            return self.policy.logps(micro_batch.triplets, roles)
        return micro_batch.share(self.policy.loss_sum(micro_batch.triplets, roles, loss_function))


def norm_of(gradient: Tensor) -> Tensor:
    """In float32 at least. -> ()"""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=wide)


@contextlib.contextmanager
def no_way_back() -> Iterator[None]:
    """Where others wait for this process in the middle of a pass, it cannot try a smaller one."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{first_line(error)}, while all processes were summing gradients: give the "
            "run a name of its own (name=...) with a smaller compute.micro_batch or "
            "compute.max_tokens, or compute.gradient_checkpointing=true; under compute=fsdp2 "
            "compute.zero_stage=3 holds least, and needs no other name"
        ) from error
