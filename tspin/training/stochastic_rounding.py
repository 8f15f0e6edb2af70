"""bfloat16 weights that a small learning rate moves: optim.precision=bf16_stochastic.

At a learning rate of 5e-7 an update is far below the distance of two neighbouring bfloat16
numbers, and rounding to the nearest would drop it. Here a torch optimiser updates a float32 copy,
one weight matrix at a time, and what it asked for is rounded up or down at random: the mean of
what is written is what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tspin.tools.seeds import seed_for

NOISE = 2**16  # float32 has 16 bits more than bfloat16


def stochastic_round(x: Tensor, noise: Tensor) -> Tensor:
    """x rounded to one of its two bfloat16 neighbours; over all noise its mean is exactly x.

    x      float32, finite; a number that bfloat16 has stays as it is
    noise  int32 of the same shape, uniform in [0, NOISE)

    The 16 bits that bfloat16 lacks say how far x is on its way from one neighbour to the next, in
    steps of 1 / NOISE: with the noise added they carry over in that share of the cases.
    """
    bits = x.view(torch.int32) + noise
    return bits.bitwise_and_(-NOISE).view(torch.float32).to(torch.bfloat16)


class StochasticRounding:
    """A torch optimiser for bfloat16 weights, whose state is float32.

    Used as one: param_groups, zero_grad, step, state_dict. The caller sets the group's "seed"
    before each step, as it sets "lr": the noise is a function of it and of the weight's number.

    build  makes the optimiser of the float32 copies; these have no memory but during their update
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        build: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    ) -> None:
        self.weights = list(weights)
        self.copies = [
            nn.Parameter(torch.empty(0, dtype=torch.float32, device=weight.device))
            for weight in weights
        ]
        self.optimizer = build(self.copies)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        (group,) = self.param_groups
        for number, (weight, copy) in enumerate(zip(self.weights, self.copies, strict=True)):
            if weight.grad is None:
                continue
            copy.data, copy.grad = weight.float(), weight.grad.float()
            self.optimizer.step()  # of this one: the others have no gradient
            if weight.dtype == torch.bfloat16:
                weight.copy_(stochastic_round(copy.data, _noise(group["seed"], number, copy)))
            else:  # what an architecture keeps in float32
                weight.copy_(copy)
            copy.data, copy.grad = copy.new_empty(0), None

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)


def _noise(seed: int, number: int, like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed_for(seed, number))
    return torch.randint(
        NOISE, like.shape, generator=generator, dtype=torch.int32, device=like.device
    )
