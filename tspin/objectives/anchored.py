"""An objective with an anchor: terms that hold log pi(y), beside any objective.

T-SPIN pushes log pi(y) above log pi(y') and nothing holds it up: both may fall. Each anchor leaves
the objective's reward as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tspin.objectives.advantages import current_advantage, historical_advantage
from tspin.objectives.logps import Logps, Metrics, Role
from tspin.objectives.metrics import reward_metrics
from tspin.objectives.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Anchors:
    """Which there are, and how strong each is; None (False): it is not there.

    nll      adds nll * -log pi(y), as RPO (arXiv 2404.19733) and CPO do
    hinge    adds hinge * max(0, log pi_t(y) - log pi(y)): nothing while y is at least as likely as
             at the start of the iteration (after DPOP, arXiv 2402.13228), by one stored score a row
    cap      nats: c and h count up to it, so that a pair which is that far apart has no gradient
             (after RePO, arXiv 2503.07426)
    average  means over a response's tokens in place of sums, as SimPO (arXiv 2405.14734) has them;
             nll, hinge and cap are then of means, too
    """

    nll: float | None = None
    hinge: float | None = None
    cap: float | None = None
    average: bool = False

    def on(self, objective: Objective) -> Objective:
        """The objective with these; itself where there are none."""
        return objective if self == Anchors() else Anchored(objective, self)


@dataclass(frozen=True)
class Anchored(Objective):
    """objective(z) + nll * NLL(y) + hinge * max(0, log pi_t(y) - log pi(y)), its margins capped."""

    objective: Objective
    anchors: Anchors

    def __post_init__(self) -> None:
        inner, name = self.objective, self.objective.key()[0]
        if self.anchors.cap is not None and not inner.of_margins:
            raise ValueError(
                f"anchor.cap={self.anchors.cap:g} caps the margins c and h, and loss={name} "
                "compares more than them; use anchor=hinge or nll"
            )
        if self.anchors.average and inner.per_token:
            raise ValueError(f"anchor.average: loss={name} takes means over tokens by itself")

    @property
    def roles(self) -> tuple[Role, ...]:
        inner = self.objective.roles
        holds = self.anchors.nll is not None or self.anchors.hinge is not None
        return ("annotated", *inner) if holds and "annotated" not in inner else inner

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]  # of an instance, here
        return self.objective.needs_reference

    @property
    def has_reward(self) -> bool:  # type: ignore[override]
        return self.objective.has_reward

    @property
    def per_token(self) -> bool:  # type: ignore[override]
        return self.objective.per_token or self.anchors.average

    @property
    def needs_batch(self) -> bool:  # type: ignore[override]
        return self.objective.needs_batch

    @property
    def reference_roles(self) -> tuple[Role, ...]:
        inner = self.objective.reference_roles
        hinge = self.anchors.hinge is not None and "annotated" not in inner
        return ("annotated", *inner) if hinge else inner

    def at(self, t: int) -> Objective:
        return Anchored(self.objective.at(t), self.anchors)

    def key(self) -> tuple[str, dict[str, Any]]:
        name, coefficients = self.objective.key()
        anchors = {f"anchor.{key}": value for key, value in vars(self.anchors).items() if value}
        return name, coefficients | anchors

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.objective.reward(logp, ref_logp)

    def statistics(self, policy: Logps, reference: Logps | None) -> dict[str, Tensor]:
        return self.objective.statistics(*self._compared(policy, reference))

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        compared, against = self._compared(policy, reference)
        inner_against = against if self.needs_reference else None
        losses, metrics = self.objective(compared, inner_against)
        if self.anchors.average:  # reported are whole responses
            metrics |= reward_metrics(self, policy, reference if self.needs_reference else None)
        if self.anchors.cap is not None:  # of the losses; metrics show margins as they are
            losses, _ = self.objective(
                _capped(compared, inner_against, self.anchors.cap), inner_against
            )
            metrics |= _weights_below(metrics, self.anchors.cap)
        if self.anchors.nll is not None:
            losses = losses - self.anchors.nll * compared["annotated"]
        if self.anchors.hinge is not None:
            assert against is not None, "the hinge reads log pi_t(y)"
            fall = (against["annotated"] - compared["annotated"]).relu()
            losses = losses + self.anchors.hinge * fall
            metrics["anchor/fall"] = fall.detach()
        return losses, metrics

    def _compared(self, policy: Logps, reference: Logps | None) -> tuple[Logps, Logps | None]:
        """What is compared of both: sums over tokens, or their means."""
        if not self.anchors.average:
            return policy, reference
        return policy.per_token(), None if reference is None else reference.per_token()


def _capped(policy: Logps, reference: Logps | None, cap: float) -> Logps:
    """Log-probs whose c and h (less the reference's) are `cap` where they were above it.

    There y and y0 stand a constant away from y', so that the margin has no gradient.
    """
    y, s, p = policy["annotated"], policy["synthetic"], policy.proto
    c, h = current_advantage(policy), historical_advantage(policy)
    c_ref = None if reference is None else current_advantage(reference)
    h_ref = None if reference is None else historical_advantage(reference)
    most_c, most_h = (cap if of_ref is None else cap + of_ref for of_ref in (c_ref, h_ref))
    values: dict[Role, Tensor] = {"annotated": (s + most_c).where(c > most_c, y)}
    if p is not None and h is not None:
        values["proto"] = (s - most_h).where(h > most_h, p)
    return policy.with_values(values)


def _weights_below(metrics: Metrics, cap: float) -> Metrics:
    """The gradient that is left: none of a margin above the cap."""
    return {
        f"weights/{name}": metrics[f"weights/{name}"] * (metrics[f"advantages/{name}"] < cap)
        for name in ("current", "historical")
        if f"weights/{name}" in metrics
    }
