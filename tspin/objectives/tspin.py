"""T-SPIN (arXiv 2601.08198), and its two ablations: with a reference, without its history.

Notation: c = log pi(y) - log pi(y') is the current advantage, h = log pi(y') - log pi(y0) the
historical one; "ref" marks the same under the reference, l is the link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tspin.objectives.advantages import current_advantage, historical_advantage
from tspin.objectives.links import LINKS, LinkName
from tspin.objectives.logps import Logps, Metrics, Role
from tspin.objectives.metrics import advantage_metrics
from tspin.objectives.objective import PAIR, NonNegative, Objective, Positive
from tspin.objectives.spin import SPIN

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TSPIN(Objective):
    """l(alpha * c) + beta * l(alpha * h); reward alpha * log pi, reference-free.

    With beta = 0 the historical term is left out and the proto-synthetic response is not read:
    so it is at iteration 0, where y' is y0 and h is exactly 0.
    """

    alpha: Positive
    beta: NonNegative
    link: LinkName = "logistic"
    name: ClassVar[str] = "tspin"
    of_margins: ClassVar[bool] = True

    @property
    def roles(self) -> tuple[Role, ...]:
        return _roles(self.beta)

    def at(self, t: int) -> Objective:
        """At iteration 0 h has no gradient whatever beta is; without its term this is w/o H-A."""
        return self if t > 0 and self.beta else WithoutHA(self.alpha, self.link)

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.alpha * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        return _triplet(self, policy, None, self.beta)


@dataclass(frozen=True)
class TSPINRef(Objective):
    """l(alpha * (c - c_ref)) + beta * l(alpha * (h - h_ref)), "T-SPIN_ref".

    Reward alpha * (log pi - log pi_ref). With beta = 0 it equals SPIN with lam = alpha.
    """

    alpha: Positive
    beta: NonNegative
    link: LinkName = "logistic"
    name: ClassVar[str] = "tspin_ref"
    needs_reference: ClassVar[bool] = True
    of_margins: ClassVar[bool] = True

    @property
    def roles(self) -> tuple[Role, ...]:
        return _roles(self.beta)

    def at(self, t: int) -> Objective:
        """At iteration 0 h has no gradient whatever beta is; without its term this is SPIN."""
        return self if t > 0 and self.beta else SPIN(self.alpha, self.link)

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        assert ref_logp is not None, "T-SPIN_ref's reward is relative to the reference"
        return self.alpha * (logp - ref_logp)

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        return _triplet(self, policy, reference, self.beta)


@dataclass(frozen=True)
class WithoutHA(Objective):
    """l(alpha * c): T-SPIN without the historical advantage ("w/o H-A"), beta = 0 throughout."""

    alpha: Positive
    link: LinkName = "logistic"
    name: ClassVar[str] = "wo_ha"
    roles: ClassVar[tuple[Role, ...]] = PAIR
    of_margins: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.alpha * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        return _triplet(self, policy, None, 0.0)


def _roles(beta: float) -> tuple[Role, ...]:
    return (*PAIR, "proto") if beta else PAIR


def _triplet(
    objective: TSPIN | TSPINRef | WithoutHA, policy: Logps, reference: Logps | None, beta: float
) -> tuple[Tensor, Metrics]:
    """l(alpha * c) + beta * l(alpha * h), c and h less those of a reference, and the metrics."""
    link, alpha = LINKS[objective.link], objective.alpha
    current, historical = current_advantage(policy), historical_advantage(policy)
    if reference is not None:
        current = current - current_advantage(reference)
        ref_historical = historical_advantage(reference)
        if historical is not None and ref_historical is not None:
            historical = historical - ref_historical
    losses = link(alpha * current)
    if beta:
        assert historical is not None, "beta > 0 compares with the proto-synthetic response"
        losses = losses + beta * link(alpha * historical)
    return losses, advantage_metrics(
        objective, policy, reference, current=current, historical=historical, scale=alpha
    )
