"""How the processes of a world train a policy: one alone, whole copies (DDP), shards (FSDP2)."""

# Annotations are not postponed: DDP reads those of `_sum`.
import contextlib
import gc
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from tspin.config.run import ComputeConfig
from tspin.distributed.world import World
from tspin.logprobs.fused_head import LossFunction
from tspin.objectives import Role
from tspin.policy.policy import Policy
from tspin.training.sharded import Sharded, ShardedBase, adapters, zero_stage
from tspin.training.strategy import Forward, MicroBatch, Strategy, no_way_back


def strategy_of(policy: Policy, compute: ComputeConfig, world: World) -> Strategy:
    """Before the optimiser is built: FSDP2 puts shards in the place of the model's weights."""
    if world.size == 1:
        return Strategy(policy)
    if not world.shards:
        return Replicated(policy, world)
    kind = ShardedBase if adapters(policy) else Sharded
    return kind(policy, world, zero_stage(policy, compute, world))


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
        messages = self._agree()
        if messages:
            # A forward pass without its backward pass leaves DDP waiting for gradients.
            del self._forward, share
            gc.collect()
            self._forward = _replicated(self.policy)
            raise torch.OutOfMemoryError(messages[0])
        assert share is not None
        with no_way_back():
            share.backward()

    def _logps_of(
        self, micro_batches: Sequence[MicroBatch], roles: tuple[Role, ...]
    ) -> dict[int, Tensor]:
        mine: dict[int, Tensor] = {}
        with self._until_out_of_memory():
            mine = super()._logps_of(micro_batches, roles)
        if messages := self._agree():
            raise torch.OutOfMemoryError(messages[0])
        return mine

    def _agree(self) -> list[str]:
        """What devices said that ran out of memory since the last time; the same on all."""
        message, self._out_of_memory = self._out_of_memory, None
        return [other for other in self.world.gather(message) if other is not None]

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
    replica = ddp(Forward(policy), gradient_as_bucket_view=True, **no_buffers)
    replica.register_comm_hook(None, _sum)
    return replica


def _sum(state: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Gradients are added up where DDP would average: a mean of the batch, not of processes."""
    work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])
