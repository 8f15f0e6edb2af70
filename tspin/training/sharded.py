"""Training with weights in shards (FSDP2), each layer whole while it computes.

Weights that are trained stay float32 in their shards. Under bfloat16 arithmetic those that autocast
would cast before every product (of linear layers) travel and compute in bfloat16, so that autocast
casts and keeps none; norms and embeddings stay as they are, and so do the residual stream, rotary
angles and log-probs: what is computed is what one process computes under autocast. Gradients are
summed in float32.

How much is whole while a step lasts is compute.zero_stage, in ZeRO's numbers:
    3  nothing: weights are gathered twice a micro-batch, gradients are summed after each
    2  the weights: gathered once a step
    1  weights and gradients: these are summed once a step
Vectors (norms) are too small to divide up: theirs are gathered and summed once a step at any stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import set_checkpoint_early_stop

from tspin.config.run import ComputeConfig, ZeroStage
from tspin.distributed.world import World
from tspin.logprobs.fused_head import LossFunction
from tspin.objectives import Role
from tspin.policy.inference import linear_weights
from tspin.policy.kernels import layers_of
from tspin.policy.policy import Policy
from tspin.training import shards
from tspin.training.strategy import MicroBatch, Strategy, no_way_back, norm_of

SHARE = 0.5  # of a device's memory for what does not grow with a micro-batch; assumed


def adapters(policy: Policy) -> list[nn.Parameter]:
    """What is trained beside a frozen base; nothing, where all weights are."""
    parameters = list(policy.model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    return trained if len(trained) < len(parameters) else []


def zero_stage(policy: Policy, compute: ComputeConfig, world: World) -> ZeroStage:
    """compute.zero_stage or, where it is auto, the lowest for which SHARE of the smallest device
    holds shards, whole weights and whole gradients; 3 on the CPU. All processes call it.

    A function of the model, the devices and their number alone: a run that goes on goes on alike.
    """
    if compute.zero_stage != "auto":
        return compute.zero_stage
    if policy.device.type != "cuda":
        return 3
    memory = torch.cuda.get_device_properties(policy.device).total_memory
    return lowest_stage(policy, world.size, SHARE * min(world.gather(memory)))


def lowest_stage(policy: Policy, processes: int, memory: float) -> ZeroStage:
    """memory: bytes of each process for shards and for what is whole, before it is in shards"""
    parameters = list(policy.model.parameters())
    whole = {id(p) for p in adapters(policy)}
    divided = [p for p in parameters if id(p) not in whole]
    trained = [p for p in divided if p.requires_grad]
    narrow = _narrow(policy)
    weights = sum(
        p.numel() * (policy.products.itemsize if id(p) in narrow else p.element_size())
        for p in divided
    )
    # An optimiser has two tensors at most of each weight, beside it and its gradient.
    held = sum(map(_bytes, divided)) + 3 * sum(map(_bytes, trained))
    left = memory - held / processes - 4 * sum(map(_bytes, adapters(policy)))
    if weights + sum(map(_bytes, trained)) <= left:
        return 1
    return 2 if weights <= left else 3


class _InParts(Strategy):
    """The modules of the policy in parts, around whose passes they are made whole."""

    def __init__(self, policy: Policy, world: World, stage: ZeroStage) -> None:
        super().__init__(policy, world)
        self._parts = _Parts(policy, self._forward, world, stage)

    def backward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction
    ) -> None:
        with self._parts.during(micro_batch):
            super().backward(micro_batch, roles, loss_function)

    def _logps_of(
        self, micro_batches: Sequence[MicroBatch], roles: tuple[Role, ...]
    ) -> dict[int, Tensor]:
        with no_way_back():
            return super()._logps_of(micro_batches, roles)


class Sharded(_InParts):
    """A part of weights, gradients and state in every process."""

    def __init__(self, policy: Policy, world: World, stage: ZeroStage) -> None:
        shards.check(policy)
        super().__init__(policy, world, stage)
        self.shards = True

    def clip(self, limit: float | None) -> float:
        gradients: list[Tensor] = [
            p.grad.to_local() for p in self.policy.model.parameters() if p.grad is not None
        ]
        mine = torch.linalg.vector_norm(torch.stack([norm_of(g) for g in gradients]))
        norm = math.hypot(*self.world.gather(float(mine)))
        if limit is not None and norm + 1e-6 > limit:
            for gradient in gradients:
                gradient.mul_(limit / (norm + 1e-6))
        return norm

    def save(self, folder: Path) -> None:
        shards.save_checkpoint(self.policy, self.world, folder)


class ShardedBase(_InParts):
    """A frozen base in shards, in the dtype in which it is held, and adapters whole in every
    process, the same to the last bit: their gradients are summed once a step.
    """

    def backward(
        self, micro_batch: MicroBatch, roles: tuple[Role, ...], loss_function: LossFunction
    ) -> None:
        super().backward(micro_batch, roles, loss_function)
        if micro_batch.is_last:
            with no_way_back():
                _sum([p.grad for p in adapters(self.policy) if p.grad is not None])


class _Parts:
    """The modules whose weights are gathered together, and when."""

    def __init__(self, policy: Policy, root: nn.Module, world: World, stage: ZeroStage) -> None:
        if not hasattr(FSDPModule, "set_gradient_divide_factor"):  # torch 2.6
            raise ValueError(
                f"compute=fsdp2 needs a later torch than {torch.__version__}, whose FSDP2 only "
                "averages gradients; update it, or use compute=ddp"
            )
        self._root, self._stage = root, stage
        self._vectors, self._matrices = list[FSDPModule](), list[FSDPModule]()
        self._mesh = init_device_mesh(policy.device.type, (world.size,))
        self._left_out = set(adapters(policy))
        narrow = _narrow(policy)
        for layer in _layers(policy):
            own = list(layer.parameters(recurse=False))
            dtype = policy.autocast if narrow and not own else None
            if dtype is not None:
                self._divide_wide(layer, narrow)
            self._divide(layer, dtype)
        # The root holds what no other part does, the head first of all: whole from the first
        # layer to the last, where the fused head reads its weight. A head that is the embedding
        # too moves in the dtype of that.
        head = policy.model.get_output_embeddings()
        if id(getattr(head, "weight", None)) in narrow:
            self._divide_wide(policy.model, narrow)
            self._divide(root, policy.autocast, whole=True)
        else:
            self._divide(root, None, whole=True)

    @contextmanager
    def during(self, micro_batch: MicroBatch) -> Iterator[None]:
        """Around its forward and backward pass."""
        last = micro_batch.is_last
        for part in self._matrices:
            part.set_reshard_after_backward(last or self._stage == 3, recurse=False)
            part.set_requires_gradient_sync(last or self._stage > 1, recurse=False)
        for part in self._vectors:
            part.set_reshard_after_backward(last, recurse=False)
            part.set_requires_gradient_sync(last, recurse=False)
        assert isinstance(self._root, FSDPModule)
        self._root.set_is_last_backward(last)  # what is on its way need not be waited for before
        # A layer that is computed again is so to its end: its last norm's hooks come in pairs.
        with no_way_back(), set_checkpoint_early_stop(not self._vectors):
            yield

    def _divide_wide(self, module: nn.Module, narrow: set[int]) -> None:
        """Each module below that autocast leaves as it is, as a part of its own."""
        inside = [part for part in module.modules() if part is not module]
        done = {id(p) for part in inside if isinstance(part, FSDPModule) for p in part.parameters()}
        for part in reversed(inside):  # the innermost first
            own = list(part.parameters(recurse=False))
            if not own or any(id(p) in narrow or id(p) in done for p in own):
                continue
            vectors = all(p.ndim < 2 for p in part.parameters())
            divided = self._divide(part, None, whole=vectors, vectors=vectors)
            if isinstance(part, nn.Embedding):
                divided.set_unshard_in_backward(False)  # its gradient does not depend on it

    def _divide(
        self,
        module: nn.Module,
        dtype: torch.dtype | None,
        *,
        whole: bool = False,
        vectors: bool = False,
    ) -> FSDPModule:
        """Puts what no other part has yet into shards.

        dtype  in which it moves and computes; None: its own
        whole  between forward and backward pass, at any stage
        """
        left_out: dict[str, Any] = {"ignored_params": self._left_out} if self._left_out else {}
        fully_shard(
            module,
            mesh=self._mesh,
            reshard_after_forward=not whole and self._stage == 3,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=dtype,
                reduce_dtype=None if dtype is None else torch.float32,
                cast_forward_inputs=False,  # residual stream and rotary angles stay float32
            ),
            **left_out,
        )
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        (self._vectors if vectors else self._matrices).append(module)
        return module


def _layers(policy: Policy) -> list[nn.Module]:
    """ValueError for a model that does not say what they are."""
    layers = layers_of(policy.model)
    if not layers:
        raise ValueError(
            f"{type(policy.model).__name__} does not say what its layers are, which "
            "compute=fsdp2 shards; use compute=ddp"
        )
    return layers


def _narrow(policy: Policy) -> set[int]:
    """The weights, by id, that are trained and that autocast would cast before every product."""
    if policy.autocast is None or adapters(policy):
        return set()
    return {id(weight) for weight in linear_weights(policy.model)}


def _sum(gradients: Sequence[Tensor]) -> None:
    """Over all processes, in place and in one message."""
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, total in zip(gradients, together.split(sizes), strict=True):
        gradient.copy_(total.view_as(gradient))


def _bytes(weight: nn.Parameter) -> int:
    return weight.numel() * weight.element_size()
