"""What an iteration trains with: one value for the loop, the schedule and the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tspin.config.objective import KEYS_OF_COEF, SCALES
from tspin.config.run import ComputeConfig, OptimConfig
from tspin.config.schedules import at
from tspin.data.triplets import Key, Triplet
from tspin.objectives import Logps, Objective


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The objective of iteration t, and how it is optimised.

    reference  stored log-probs of theta_t, for a loss that needs them
    weights    of triplets in the mean loss, by prompt id, 1 on average; None: all count alike
    """

    loss: Objective
    reference: dict[Key, float] | None = None
    weights: Mapping[str, float] | None = None
    optim: OptimConfig
    compute: ComputeConfig
    seed: int
    t: int

    def weighted(self, triplets: Sequence[Triplet], losses: Tensor) -> Tensor:
        """The losses of these triplets, (batch,), each times its weight."""
        if self.weights is None:
            return losses
        factors = torch.tensor([self.weights[t.id] for t in triplets], dtype=losses.dtype)
        return losses * factors.to(losses.device, non_blocking=True)

    def reference_logps(self, triplets: Sequence[Triplet], logps: Logps) -> Logps | None:
        """Of the same triplets as `logps`, in its dtype; None: the loss reads none."""
        roles = self.loss.reference_roles
        if not roles:
            return None
        assert self.reference is not None
        stored, like = self.reference, logps[logps.present()[0]]
        by_role = {}
        for role in roles:
            values = torch.tensor(
                [stored[t.id, t.source, role] for t in triplets], dtype=like.dtype
            )
            by_role[role] = values.to(like.device, non_blocking=True)
        return Logps(lengths=logps.lengths).with_values(by_role)


def gentler(loss: Objective, optim: OptimConfig, t: int) -> str:
    """What to set where iteration t diverged: only what there is, and is not so already."""
    _, coefficients = loss.key()
    scales = [f" or coef.{KEYS_OF_COEF.get(name, name)}" for name in SCALES if name in coefficients]
    clips = optim.max_grad_norm is not None and optim.max_grad_norm <= 1
    clipping = "" if clips else ", or set optim.max_grad_norm=1.0"
    return f"lower optim.lr ({at(optim.lr, t):g} here){''.join(scales)}{clipping}"
