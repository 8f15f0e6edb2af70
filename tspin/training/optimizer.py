"""The optimiser, new in every iteration, of the weights that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from tspin.config.run import OptimConfig
from tspin.policy.policy import Policy
from tspin.training.stochastic_rounding import StochasticRounding

Optimizer = torch.optim.Optimizer | StochasticRounding


def build_optimizer(policy: Policy, optim: OptimConfig) -> Optimizer:
    """A new optimiser, whose state has the dtype of the weights, or under
    optim.precision=bf16_stochastic float32.

    RMSprop has no bias correction: its first steps want a warm-up.
    """
    weights = [parameter for _, parameter in trained(policy)]
    if optim.precision == "bf16_stochastic":
        return StochasticRounding(weights, partial(_torch_optimizer, optim=optim))
    return _torch_optimizer(weights, optim)


def trained(policy: Policy) -> list[tuple[str, nn.Parameter]]:
    """What is not frozen, by name, in the order in which the optimiser has it."""
    return [(name, p) for name, p in policy.model.named_parameters() if p.requires_grad]


def _torch_optimizer(
    parameters: Sequence[nn.Parameter], optim: OptimConfig
) -> torch.optim.Optimizer:
    own: dict[str, Any] = {"lr": 0.0, "eps": optim.eps, "weight_decay": optim.weight_decay}
    if optim.name == "rmsprop":
        own |= {"alpha": optim.rms_alpha, "momentum": optim.momentum}
        return torch.optim.RMSprop(parameters, **own)
    return torch.optim.AdamW(parameters, betas=optim.betas, **own)
