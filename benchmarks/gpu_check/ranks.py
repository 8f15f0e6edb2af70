"""Several processes' ways of training, with one: NCCL, DDP and FSDP2 on this card."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from benchmarks.gpu_check.models import cosine, policy_of, recipe_of, taken, triplets
from benchmarks.gpu_check.results import Outcome, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.distributed.world import World
from tspin.policy.policy import Policy
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.parallel import Replicated, Strategy
from tspin.training.sharded import Sharded
from tspin.training.step import gradient_step

Way = Callable[[Policy], Strategy]
COSINE = 0.999  # FSDP2 may gather and reduce in another dtype
NORM = 0.01


def ranks(setting: Setting) -> Iterator[Outcome]:
    """DDP and FSDP2 in a world of one process, against the way that needs no other."""
    if not setting.tiny:
        torch.cuda.set_device(0)
    backend = "gloo" if setting.tiny else "nccl"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    loss, norm, gradients = _step(setting, Strategy)
    ways: dict[str, Way] = {
        "DDP": lambda policy: Replicated(policy, World(0, 1, "ddp")),
        "FSDP2": lambda policy: Sharded(policy, World(0, 1, "fsdp2"), 3),
    }
    for name, way in ways.items():
        their_loss, their_norm, theirs = _step(setting, way)
        alike = cosine(gradients, theirs)
        yield verdict(
            f"{name}, one rank, {backend}",
            alike > COSINE
            and abs(their_norm / norm - 1) < NORM
            and abs(their_loss / loss - 1) < 1e-3,
            {
                "cosine": f"{alike:.7f}",
                "norm": their_norm,
                "norm alone": norm,
                "loss": their_loss,
                "loss alone": loss,
            },
            rule="loss and gradient are to be those of a process alone",
        )
    dist.destroy_process_group()


def _step(setting: Setting, way: Way) -> tuple[float, float, list[torch.Tensor]]:
    """-> loss, gradient norm and gradient of a step of two micro-batches, from the same weights"""
    shape, run = setting.small(), setting.run()
    policy: Policy = policy_of(setting, shape, run)
    strategy = way(policy)
    optimizer = build_optimizer(policy, run.optim)
    batch, recipe = triplets(shape, 4, setting.lengths()), recipe_of(run, run.loss_at(1))
    metrics, _ = gradient_step(strategy, optimizer, batch, recipe, Cut(2, None), where="step")
    return metrics["loss"], metrics["grad_norm"], taken(policy)
