"""What a step has of its own as a function of its number: learning rate and random numbers."""

from __future__ import annotations

import math

import torch

from tspin.config.run import OptimConfig
from tspin.config.schedules import at
from tspin.policy.policy import Policy
from tspin.tools.seeds import seed_for
from tspin.training.optimizer import Optimizer
from tspin.training.recipe import Recipe


def begin_step(
    policy: Policy, optimizer: Optimizer, recipe: Recipe, step: int, per_epoch: int
) -> None:
    """Sets the learning rate of the step and the seeds of rounding and dropout.

    per_epoch  steps of an epoch; the decay may be laid over more epochs than are run
    """
    optim, seed, t = recipe.optim, recipe.seed, recipe.t
    num_steps = (optim.schedule_epochs or optim.epochs) * per_epoch
    for group in optimizer.param_groups:
        group["lr"] = at(optim.lr, t) * lr_factor(step, num_steps, optim)
        group["seed"] = seed_for(seed, "rounding", t, step)
    if policy.dropout:
        torch.manual_seed(seed_for(seed, "dropout", t, step))


def lr_factor(step: int, num_steps: int, optim: OptimConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then decay to 0 at num_steps.

    transformers' schedules, and with warmup_from=zero also its Trainer's warm-up: rounded up to
    whole steps, of which the first has learning rate 0 and moves nothing. warmup_from=step begins
    one step further on, at 1 / warmup, and rounds to the nearest.
    """
    from_zero = optim.warmup_from == "zero"
    warmup = math.ceil(optim.warmup * num_steps) if from_zero else round(optim.warmup * num_steps)
    if step < warmup:
        return (step if from_zero else step + 1) / warmup
    left = (num_steps - step) / max(1, num_steps - warmup)
    return {
        "constant": 1.0,
        "linear": left,
        "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))),
    }[optim.schedule]
