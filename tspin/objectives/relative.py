"""Rivals that judge y and y' against the policy at the start of the iteration.

Notation: r(z) = log pi(z) - log pi_t(z), r of y and of y'; s is the logistic function. SPIN, in a
module of its own, is DPO (arXiv 2305.18290). Defaults are those of the papers or their code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tspin.objectives.advantages import current_advantage
from tspin.objectives.links import logistic
from tspin.objectives.logps import Logps, Metrics, Role
from tspin.objectives.metrics import reward_metrics
from tspin.objectives.objective import PAIR, Objective, Positive

if TYPE_CHECKING:
    from torch import Tensor


class RelativeObjective(Objective):
    """Base: pairs, a reference, and the reward r."""

    roles: ClassVar[tuple[Role, ...]] = PAIR
    needs_reference: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        assert ref_logp is not None, f"{self.name}'s reward is relative to the reference"
        return logp - ref_logp


class ScaledObjective(RelativeObjective):
    """Base: the same with the reward beta * r."""

    beta: float

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.beta * super().reward(logp, ref_logp)


@dataclass(frozen=True)
class SPACE(RelativeObjective):
    """-log s_mu(r_y) - mu log s_{1/mu}(-r_y'), s_mu(x) = 1 / (1 + mu exp(-x)); reward r.

    Self-play by noise-contrastive estimation (arXiv 2512.07175): y' is noise to be told from y,
    each by a reward of its own, mu samples of noise for one of data. Since s_mu(x) =
    s(x - log mu), it is l(r_y - log mu) + mu l(log mu - r_y') with the logistic link l, and at
    mu = 1 the paired form of BCO with beta 1 (arXiv 2404.04656).
    """

    mu: Positive
    name: ClassVar[str] = "space"

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        shift = math.log(self.mu)
        y, s = ratios(policy, reference)
        losses = logistic(y - shift) + self.mu * logistic(shift - s)
        return losses, relative_metrics(self, policy, reference)


@dataclass(frozen=True)
class SPIF(RelativeObjective):
    """r_y' - r_y + (r_y^2 + r_y'^2) / (2 bound); reward r.

    Self-play as imitation, by a chi^2 divergence with bounded rewards (arXiv 2602.01357). Its
    abstract says that much and its text was not at hand. This is the variational form of bound *
    chi^2(p || (p + q) / 2), p the data's distribution and q pi_t's, with r as its function: the
    best is bound * (p - q) / (p + q), within the bound. It is beta times SPPO-hard, less bound, at
    beta = 1 / (2 bound): its gradient has the same direction.
    """

    bound: Positive
    name: ClassVar[str] = "spif"

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        y, s = ratios(policy, reference)
        losses = s - y + (y**2 + s**2) / (2 * self.bound)
        return losses, relative_metrics(self, policy, reference)


@dataclass(frozen=True)
class IPO(ScaledObjective):
    """(avg r_y - avg r_y' - 1 / (2 beta))^2, avg the mean over tokens; reward beta * avg r.

    Eq. (17) of arXiv 2310.12036, its tau called beta, on means over tokens as its authors used it
    (so says TRL, which does the same).
    """

    beta: Positive
    name: ClassVar[str] = "ipo"
    per_token: ClassVar[bool] = True

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        y, s = ratios(policy.per_token(), reference.per_token())
        losses = (y - s - 1 / (2 * self.beta)) ** 2
        return losses, relative_metrics(self, policy, reference)


@dataclass(frozen=True)
class NCA(ScaledObjective):
    """-log s(beta r_y) - 1/2 log s(-beta r_y) - 1/2 log s(-beta r_y'); reward beta * r.

    Noise-contrastive alignment for pairs (arXiv 2402.05369).
    """

    beta: Positive
    name: ClassVar[str] = "nca"

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        y, s = (self.beta * ratio for ratio in ratios(policy, reference))
        losses = logistic(y) + 0.5 * logistic(-y) + 0.5 * logistic(-s)
        return losses, relative_metrics(self, policy, reference)


@dataclass(frozen=True)
class APOZero(ScaledObjective):
    """1 - s(beta r_y) + s(beta r_y'); reward beta * r (eq. (7) of arXiv 2408.06266)."""

    beta: Positive
    name: ClassVar[str] = "apo_zero"

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        y, s = (self.beta * ratio for ratio in ratios(policy, reference))
        return (-y).sigmoid() + s.sigmoid(), relative_metrics(self, policy, reference)


@dataclass(frozen=True)
class SPPO(ScaledObjective):
    """(r_y - 1 / (2 beta))^2 + (r_y' + 1 / (2 beta))^2; reward beta * r.

    SPPO with hard preferences: eq. (4.7) of arXiv 2405.00675 where y wins for certain.
    """

    beta: Positive
    name: ClassVar[str] = "sppo"

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        aim = 1 / (2 * self.beta)
        y, s = ratios(policy, reference)
        return (y - aim) ** 2 + (s + aim) ** 2, relative_metrics(self, policy, reference)


def ratios(policy: Logps, reference: Logps) -> tuple[Tensor, Tensor]:
    """r of y and of y', each (batch,)."""
    return (
        policy["annotated"] - reference["annotated"],
        policy["synthetic"] - reference["synthetic"],
    )


def relative_metrics(objective: RelativeObjective, policy: Logps, reference: Logps) -> Metrics:
    """With c - c_ref as the current advantage, of means over tokens where the objective is."""
    metrics = reward_metrics(objective, policy, reference)
    if objective.per_token:
        policy, reference = policy.per_token(), reference.per_token()
    current = current_advantage(policy) - current_advantage(reference)
    return metrics | {"advantages/current": current.detach()}
