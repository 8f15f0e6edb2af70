"""SPIN (arXiv 2401.01335): pairs, and the policy at the start of the iteration as reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tspin.objectives.advantages import current_advantage
from tspin.objectives.links import LINKS, LinkName
from tspin.objectives.logps import Logps, Metrics, Role
from tspin.objectives.metrics import advantage_metrics
from tspin.objectives.objective import PAIR, Objective, Positive

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SPIN(Objective):
    """l(lam * (c - c_ref)) (arXiv 2401.01335, eq. 4.7); reward lam * (log pi - log pi_ref).

    Equals DPO with beta = lam, chosen = annotated, rejected = synthetic. When y' = y it is a
    constant of the policy: no gradient.
    """

    lam: Positive
    link: LinkName = "logistic"
    name: ClassVar[str] = "spin"
    roles: ClassVar[tuple[Role, ...]] = PAIR
    needs_reference: ClassVar[bool] = True
    of_margins: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        assert ref_logp is not None, "SPIN's reward is relative to the reference"
        return self.lam * (logp - ref_logp)

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        current = current_advantage(policy) - current_advantage(reference)
        losses = LINKS[self.link](self.lam * current)
        return losses, advantage_metrics(
            self, policy, reference, current=current, historical=None, scale=self.lam
        )
