"""Rivals that need no reference: contrasts of y and y' by the policy alone, most beside an NLL.

Notation: avg log pi(z) is log pi(z) / |z|; s is the logistic function; NLL(y) = -log pi(y), a sum
over tokens unless said. Defaults are those of the papers or their code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tspin.objectives.advantages import current_advantage, historical_advantage
from tspin.objectives.links import logistic
from tspin.objectives.logps import Logps, Metrics, Role
from tspin.objectives.metrics import advantage_metrics, logp_metrics, reward_metrics
from tspin.objectives.objective import PAIR, NonNegative, Objective, Positive
from tspin.objectives.sft import SFT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SimPO(Objective):
    """-log s(beta (avg log pi(y) - avg log pi(y')) - gamma); reward beta * avg log pi.

    Eq. (6) of arXiv 2405.14734. gamma_ratio is gamma / beta, as its code says it.
    """

    beta: Positive
    gamma_ratio: NonNegative
    name: ClassVar[str] = "simpo"
    roles: ClassVar[tuple[Role, ...]] = PAIR
    per_token: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.beta * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        margin = current_advantage(policy.per_token()) - self.gamma_ratio
        return logistic(self.beta * margin), advantage_metrics(
            self, policy, None, current=margin, historical=None, scale=self.beta
        )


@dataclass(frozen=True)
class RePO(Objective):
    """max(0, gamma - (avg log pi(y) - avg log pi(y'))); reward avg log pi.

    ReLU-based preference optimisation (arXiv 2503.07426): SimPO as its beta grows without bound.
    A pair gives its whole gradient until its margin is gamma, and then none.
    """

    gamma: Positive
    name: ClassVar[str] = "repo"
    roles: ClassVar[tuple[Role, ...]] = PAIR
    per_token: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        current = current_advantage(policy.per_token())
        losses = (self.gamma - current).relu()
        metrics = reward_metrics(self, policy, None)
        metrics["advantages/current"] = current.detach()
        metrics["weights/current"] = (current.detach() < self.gamma).to(current.dtype)
        return losses, metrics


@dataclass(frozen=True)
class CPO(Objective):
    """-log s(beta c) + eta NLL(y), c = log pi(y) - log pi(y'); reward beta * log pi.

    Contrastive preference optimisation (arXiv 2401.08417, eta = 1): w/o H-A with an anchor.
    """

    beta: Positive
    eta: NonNegative
    name: ClassVar[str] = "cpo"
    roles: ClassVar[tuple[Role, ...]] = PAIR

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.beta * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        current = current_advantage(policy)
        losses = logistic(self.beta * current) - self.eta * policy["annotated"]
        return losses, advantage_metrics(
            self, policy, None, current=current, historical=None, scale=self.beta
        )


@dataclass(frozen=True)
class TPO(Objective):
    """NLL(y) - eta log s(beta h), h = log pi(y') - log pi(y0); reward beta * log pi.

    Triple preference optimisation (arXiv 2405.16681, its gold response y, its pair y' over y0):
    SFT beside T-SPIN's historical term. At iteration 0 y' is y0, h is 0, and it is SFT.
    """

    beta: Positive
    eta: NonNegative
    name: ClassVar[str] = "tpo"
    roles: ClassVar[tuple[Role, ...]] = (*PAIR, "proto")

    def at(self, t: int) -> Objective:
        return self if t > 0 and self.eta else SFT()

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.beta * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        historical = historical_advantage(policy)
        assert historical is not None, "TPO compares with the proto-synthetic response"
        losses = self.eta * logistic(self.beta * historical) - policy["annotated"]
        current = current_advantage(policy)
        return losses, advantage_metrics(
            self, policy, None, current=current, historical=historical, scale=self.beta
        )


@dataclass(frozen=True)
class ORPO(Objective):
    """avg NLL(y) - weight * log s(log odds(y) - log odds(y')); reward weight * avg log pi.

    odds(z) = p / (1 - p) with p = exp(avg log pi(z)) (arXiv 2403.07691, eqs. 4 to 7).
    """

    weight: Positive
    name: ClassVar[str] = "orpo"
    roles: ClassVar[tuple[Role, ...]] = PAIR
    per_token: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.weight * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        means = policy.per_token()
        odds = _log_odds(means["annotated"]) - _log_odds(means["synthetic"])
        return self.weight * logistic(odds) - means["annotated"], advantage_metrics(
            self, policy, None, current=odds, historical=None, scale=1.0
        )


@dataclass(frozen=True)
class SSD(Objective):
    """-log pi(y'): self-distillation (arXiv 2604.01193). It has no reward.

    With y' sampled cooler than the policy is used (decoding.temperature below 1) this only
    sharpens: the control for what of a gain is that, and reads no annotated response.
    """

    name: ClassVar[str] = "ssd"
    roles: ClassVar[tuple[Role, ...]] = ("synthetic",)
    has_reward: ClassVar[bool] = False

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        return -policy["synthetic"], logp_metrics(policy)


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p, (batch,) -> (batch,). log(1 - e^x) is log(-expm1(x)).

    A response that is certain has no finite odds; log p is held below 0 by the least step of its
    dtype.
    """
    import torch

    below_0 = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - (-torch.expm1(below_0)).log()
