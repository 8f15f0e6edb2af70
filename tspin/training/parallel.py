"""A policy's training over processes: who computes what of a step, how gradients meet.

A batch is cut into micro-batches from the data alone and these are dealt out, so that the cut never
depends on the number of processes. Every gradient is a share of the batch's mean, and gradients are
summed. DDP and FSDP2 do the summing; one process needs neither.
"""

# Annotations are not postponed: DDP reads those of `_sum`.
import contextlib
import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tspin.data.triplets import Triplet
from tspin.distributed.world import ALONE, World
from tspin.logprobs.fused_head import LossFunction
from tspin.objectives import Role
from tspin.policy.policy import Policy
from tspin.tools.log import first_line
from tspin.training import shards


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


def strategy_of(policy: Policy, world: World) -> "Strategy":
    """Before the optimiser is built: FSDP2 puts shards in the place of the model's weights."""
    if world.size == 1:
        return Strategy(policy)
    return Sharded(policy, world) if world.shards else Replicated(policy, world)


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
    """How a policy is trained by the processes of a world; here by one, which needs no other."""

    def __init__(self, policy: Policy, world: World = ALONE) -> None:
        self.policy, self.world = policy, world
        self._forward: Any = _Forward(policy)

    def backward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction
    ) -> None:
        """Adds the gradient of its share of the batch's mean loss; on all processes together.

        Raises OutOfMemoryError on all of them or, where they can no longer agree, ValueError.
        """
        self._forward(micro_batch, roles, loss_function).backward()

    def clip(self, limit: float | None) -> float:
        """Scales the gradient down to a norm of `limit`. -> its norm before, in float32 at least"""
        parameters = list(self.policy.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([_norm(g) for g in gradients]))
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return float(norm)

    def save(self, folder: Path) -> None:
        """The policy as a plain transformers folder."""
        self.world.main(self.policy.save, folder)


class Replicated(Strategy):
    """A whole copy of the weights in every process (DDP), the same to the last bit."""

    def __init__(self, policy: Policy, world: World) -> None:
        super().__init__(policy, world)
        self._out_of_memory: str | None = None  # what the device said of it, in this step
        self._forward = _replicated(policy)

    def backward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction
    ) -> None:
        if not micro_batch.is_last:
            if self._out_of_memory is None:
                with self._until_out_of_memory(), self._forward.no_sync():
                    self._forward(micro_batch, roles, loss_function).backward()
            return
        share = None
        with self._until_out_of_memory():
            share = self._forward(micro_batch, roles, loss_function)
        # Gradients are summed during this backward pass: all enter it, or nobody.
        message, self._out_of_memory = self._out_of_memory, None
        messages = [other for other in self.world.gather(message) if other is not None]
        if messages:
            # A forward pass without its backward pass leaves DDP waiting for gradients.
            del self._forward, share
            gc.collect()
            self._forward = _replicated(self.policy)
            raise torch.OutOfMemoryError(messages[0])
        assert share is not None
        with _no_way_back():
            share.backward()

    @contextlib.contextmanager
    def _until_out_of_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            self._out_of_memory = str(error)


def _replicated(policy: Policy) -> nn.parallel.DistributedDataParallel:
    ddp: Any = nn.parallel.DistributedDataParallel
    # The name changes with torch 2.13. Buffers are constants here.
    renamed = "forward_sync_buffers" in signature(ddp.__init__).parameters
    no_buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    replica = ddp(_Forward(policy), gradient_as_bucket_view=True, **no_buffers)
    replica.register_comm_hook(None, _sum)
    return replica


class Sharded(Strategy):
    """A part of weights, gradients and state in every process (FSDP2), layer by layer whole.

    Gradients are summed in every pass: to wait for the last would hold the whole gradient.
    """

    def __init__(self, policy: Policy, world: World) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        super().__init__(policy, world)
        kinds = set(policy.model._no_split_modules or ())
        layers = [m for m in policy.model.modules() if type(m).__name__ in kinds]
        if not layers:
            raise ValueError(
                f"{type(policy.model).__name__} does not say what its layers are, which "
                "compute=fsdp2 shards; use compute=ddp"
            )
        shards.check(policy)
        mesh = init_device_mesh(policy.device.type, (world.size,))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # The root holds embedding, norm and head: whole from the first layer to the last, where
        # the fused head reads its weight.
        fully_shard(self._forward, mesh=mesh)
        for module in self._forward.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def backward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction
    ) -> None:
        with _no_way_back():
            super().backward(micro_batch, roles, loss_function)

    def clip(self, limit: float | None) -> float:
        gradients = [
            p.grad.to_local() for p in self.policy.model.parameters() if p.grad is not None
        ]
        mine = torch.linalg.vector_norm(torch.stack([_norm(g) for g in gradients]))
        norm = math.hypot(*self.world.gather(float(mine)))
        if limit is not None and norm + 1e-6 > limit:
            for gradient in gradients:
                gradient.mul_(limit / (norm + 1e-6))
        return norm

    def save(self, folder: Path) -> None:
        shards.save_checkpoint(self.policy, self.world, folder)


class _Forward(nn.Module):
    """The share of a micro-batch as a module's forward pass: DDP and FSDP2 put hooks on it."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model, self.policy = policy.model, policy

    def forward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction
    ) -> Tensor:
        return micro_batch.share(self.policy.loss_sum(micro_batch.triplets, roles, loss_function))


def _sum(state: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Gradients are added up where DDP would average: a mean of the batch, not of processes."""
    work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _norm(gradient: Tensor) -> Tensor:
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=wide)


@contextlib.contextmanager
def _no_way_back() -> Iterator[None]:
    """Where others wait for this process in the middle of a pass, it cannot try a smaller one."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{first_line(error)}, while all processes were summing gradients: give the "
            "run a name of its own (name=...) with a smaller compute.micro_batch or "
            "compute.max_tokens, or compute.gradient_checkpointing=true"
        ) from error
