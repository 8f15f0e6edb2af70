"""Rivals that judge a pair beside all pairs of its batch.

Notation as in tspin.objectives.relative; E is the mean over the batch. What they take of the batch
(Objective.statistics) is a constant of the step: the gradient is of the losses alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tspin.objectives.logps import Logps, Metrics
from tspin.objectives.objective import Positive
from tspin.objectives.relative import (
    RelativeObjective,
    ScaledObjective,
    ratios,
    relative_metrics,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KTO(ScaledObjective):
    """1 - s(beta (r_y - z_y')) + 1 - s(beta (z_y - r_y')), z = max(0, E r); reward beta * r.

    Kahneman-Tversky optimisation (arXiv 2402.01306, eq. 7, both weights 1) on pairs. The paper's:
    z stands for KL(pi || pi_t), is estimated from responses of the batch that belong to other
    prompts, is at least 0 and has no gradient. Where responses come in pairs, its authors' first
    report estimates it for each half by the other half, as TRL's former loss `kto_pair` did: that
    is taken here, without the second model pass that other prompts' responses need. Ours: the
    batch is that of the step, however it is cut.

    y' is sampled from pi_t, where E r = -KL(pi_t || pi): so z_y' is 0 but for noise and sampling
    at another temperature, and what is left of z is the gain of y, below which y' has to stay.
    """

    beta: Positive
    name: ClassVar[str] = "kto"
    needs_batch: ClassVar[bool] = True

    def statistics(self, policy: Logps, reference: Logps | None) -> dict[str, Tensor]:
        assert reference is not None
        y, s = ratios(policy, reference)
        return {"z_y": y.mean().clamp(min=0), "z_s": s.mean().clamp(min=0)}

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        z = self.of_batch(policy, reference)
        y, s = ratios(policy, reference)
        losses = (self.beta * (z["z_s"] - y)).sigmoid() + (self.beta * (s - z["z_y"])).sigmoid()
        return losses, relative_metrics(self, policy, reference)


@dataclass(frozen=True)
class IRIS(RelativeObjective):
    """1 / (1 - a) log E exp((a - 1) r_y) + 1 / a log E exp(a r_y'), a the order; reward r.

    Self-play by Renyi divergence (arXiv 2604.20933): two tilted risks, of y and of y', which weigh
    a batch's responses by exp((a - 1) r_y) and exp(a r_y'). Its abstract says that much and its
    text was not at hand. This is the variational form of the divergence of order a (arXiv
    2007.03814), with r as its function: r = log(p / pi_t) is the best, p the data's distribution,
    and pi = pi_t = p a fixed point. a = 1 is its limit, log E exp(r_y') - E r_y for the KL
    divergence. The paper adapts the order while it trains; here it is one, or one per iteration.

    A row's loss is (exp(k x - T) - 1 + T) / k for a risk 1 / k log E exp(k x) with T = log E
    exp(k x) of the batch: the mean of these is the risk, and of their gradients its gradient.
    """

    order: Positive
    name: ClassVar[str] = "iris"
    needs_batch: ClassVar[bool] = True

    def statistics(self, policy: Logps, reference: Logps | None) -> dict[str, Tensor]:
        assert reference is not None
        y, s = ratios(policy, reference)
        return {"tilt_y": _tilt((self.order - 1) * y), "tilt_s": _tilt(self.order * s)}

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        tilts = self.of_batch(policy, reference)
        y, s = ratios(policy, reference)
        losses = _risk(s, self.order, tilts["tilt_s"]) - _risk(y, self.order - 1, tilts["tilt_y"])
        return losses, relative_metrics(self, policy, reference)


def _tilt(x: Tensor) -> Tensor:
    """log E exp(x). (batch,) -> ()"""
    return x.logsumexp(0) - math.log(len(x))


def _risk(x: Tensor, k: float, tilt: Tensor) -> Tensor:
    """Row by row, what has 1 / k log E exp(k x) as its mean and its gradient; x where k is 0."""
    return x if k == 0 else ((k * x - tilt).expm1() + tilt) / k
