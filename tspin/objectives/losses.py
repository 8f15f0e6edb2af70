"""The objectives: SFT, SPIN, T-SPIN, T-SPIN_ref and T-SPIN without the historical advantage.

Each is a frozen dataclass, called on log-probabilities of shape (batch,) and returning losses of
shape (batch,): no model, tokenizer, device, config or rank is known here. A loss says which
`roles` it compares and whether it `needs_reference`, the policy at the start of the iteration.

Notation (arXiv 2601.08198): c = log pi(y) - log pi(y') is the current advantage,
h = log pi(y') - log pi(y0) the historical one; "ref" marks the same under the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tspin.logprobs.padded import Logps, Role

LinkName = Literal["logistic", "exponential"]
Metrics = dict[str, Tensor]


def logistic(u: Tensor) -> Tensor:
    """l(u) = -log sigmoid(u), (batch,) -> (batch,); its derivative is -sigmoid(-u).

    The paper's eq. (15) prints -sigmoid(u); that is not the derivative of its own link.
    """
    return -logsigmoid(u)


def exponential(u: Tensor) -> Tensor:
    """l(u) = exp(-u), (batch,) -> (batch,); its derivative is -exp(-u)."""
    return torch.exp(-u)


LINKS: dict[LinkName, Callable[[Tensor], Tensor]] = {
    "logistic": logistic,
    "exponential": exponential,
}


class Loss(Protocol):
    """What a stage may ask of an objective."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """Which of annotated, synthetic, proto it compares."""

    @property
    def needs_reference(self) -> bool:
        """Whether the policy at the start of the iteration must score the triplets first."""

    @property
    def has_reward(self) -> bool:
        """Whether `reward` is defined."""

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        """The reward this objective implies for a response, elementwise."""

    def __call__(self, policy: Logps, reference: Logps | None) -> tuple[Tensor, Metrics]:
        """Per-example losses (batch,) and detached per-example metrics (batch,)."""


@dataclass(frozen=True)
class SFT:
    """-log pi(y): supervised fine-tuning, the sum over the response's tokens (not their mean).

    The sum weighs every token alike; trainers that optimise the per-example token mean weigh
    short responses more. It has no reward.
    """

    roles: ClassVar[tuple[Role, ...]] = ("annotated",)
    needs_reference: ClassVar[bool] = False
    has_reward: ClassVar[bool] = False

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        raise ValueError("the sft objective defines no reward")

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        return -policy.annotated, _logp_metrics(policy)


@dataclass(frozen=True)
class SPIN:
    """l(lam * (c - c_ref)) (arXiv 2401.01335, eq. 4.7); reward lam * (log pi - log pi_ref).

    Equals DPO with beta = lam, chosen = annotated, rejected = synthetic. When y' = y it is a
    constant of the policy: no gradient.
    """

    lam: float
    link: LinkName = "logistic"
    roles: ClassVar[tuple[Role, ...]] = ("annotated", "synthetic")
    needs_reference: ClassVar[bool] = True
    has_reward: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        assert ref_logp is not None, "SPIN's reward is relative to the reference"
        return self.lam * (logp - ref_logp)

    def __call__(self, policy: Logps, reference: Logps | None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        current = _current(policy) - _current(reference)
        losses = LINKS[self.link](self.lam * current)
        metrics = _advantage_metrics(self, policy, reference, current, None, self.lam)
        return losses, metrics


@dataclass(frozen=True)
class TSPIN:
    """l(alpha * c) + beta * l(alpha * h); reward alpha * log pi, reference-free.

    With beta = 0 the historical term is left out and the proto-synthetic response is not read:
    so it is at iteration 0, where y' is y0 and h is exactly 0.
    """

    alpha: float
    beta: float
    link: LinkName = "logistic"
    needs_reference: ClassVar[bool] = False
    has_reward: ClassVar[bool] = True

    @property
    def roles(self) -> tuple[Role, ...]:
        return _roles(self.beta)

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.alpha * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        current, historical = _current(policy), _historical(policy)
        losses = _triplet(self, current, historical)
        return losses, _advantage_metrics(self, policy, None, current, historical, self.alpha)


@dataclass(frozen=True)
class TSPINRef:
    """l(alpha * (c - c_ref)) + beta * l(alpha * (h - h_ref)), "T-SPIN_ref".

    Reward alpha * (log pi - log pi_ref). With beta = 0 it equals SPIN with lam = alpha.
    """

    alpha: float
    beta: float
    link: LinkName = "logistic"
    needs_reference: ClassVar[bool] = True
    has_reward: ClassVar[bool] = True

    @property
    def roles(self) -> tuple[Role, ...]:
        return _roles(self.beta)

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        assert ref_logp is not None, "T-SPIN_ref's reward is relative to the reference"
        return self.alpha * (logp - ref_logp)

    def __call__(self, policy: Logps, reference: Logps | None) -> tuple[Tensor, Metrics]:
        assert reference is not None
        current = _current(policy) - _current(reference)
        historical, ref_historical = _historical(policy), _historical(reference)
        if historical is not None and ref_historical is not None:
            historical = historical - ref_historical
        losses = _triplet(self, current, historical)
        return losses, _advantage_metrics(self, policy, reference, current, historical, self.alpha)


@dataclass(frozen=True)
class WithoutHA:
    """l(alpha * c): T-SPIN without the historical advantage ("w/o H-A"), beta = 0 throughout."""

    alpha: float
    link: LinkName = "logistic"
    roles: ClassVar[tuple[Role, ...]] = ("annotated", "synthetic")
    needs_reference: ClassVar[bool] = False
    has_reward: ClassVar[bool] = True

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        return self.alpha * logp

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        current = _current(policy)
        losses = LINKS[self.link](self.alpha * current)
        metrics = _advantage_metrics(self, policy, None, current, _historical(policy), self.alpha)
        return losses, metrics


def contingency(
    reward_y: Tensor, reward_s: Tensor, logp_y: Tensor, logp_s: Tensor
) -> dict[str, Tensor]:
    """The four cells of Figure 3's table as 0/1 per example, and the ties. Each (batch,).

    [reward of y above that of y' or not] x [log pi(y) above log pi(y') or not]; "above" is
    strict, so that ties fall to "not" and are counted beside the cells.
    """
    reward_up, logp_up = reward_y > reward_s, logp_y > logp_s
    return {
        "both": reward_up & logp_up,
        "reward_only": reward_up & ~logp_up,
        "logp_only": ~reward_up & logp_up,
        "neither": ~reward_up & ~logp_up,
        "tied_reward": reward_y == reward_s,
        "tied_logp": logp_y == logp_s,
    }


def mean_metrics(batches: Iterable[Metrics]) -> dict[str, float]:
    """Mean over all examples of several micro-batches, however they were cut."""
    total: dict[str, list[Tensor]] = {}
    for metrics in batches:
        for key, values in metrics.items():
            total.setdefault(key, []).append(values.double())
    return {key: float(torch.cat(values).mean()) for key, values in total.items()}


def _roles(beta: float) -> tuple[Role, ...]:
    pair: tuple[Role, ...] = ("annotated", "synthetic")
    return (*pair, "proto") if beta else pair


def _current(logps: Logps) -> Tensor:
    return logps["annotated"] - logps["synthetic"]


def _historical(logps: Logps) -> Tensor | None:
    return None if logps.proto is None else logps["synthetic"] - logps["proto"]


def _triplet(loss: TSPIN | TSPINRef, current: Tensor, historical: Tensor | None) -> Tensor:
    link = LINKS[loss.link]
    losses = link(loss.alpha * current)
    if loss.beta:
        assert historical is not None, "beta > 0 compares with the proto-synthetic response"
        losses = losses + loss.beta * link(loss.alpha * historical)
    return losses


def _logp_metrics(policy: Logps) -> Metrics:
    return {f"logps/{role}": policy[role].detach() for role in policy.present()}


@torch.no_grad()
def _advantage_metrics(
    loss: Loss,
    policy: Logps,
    reference: Logps | None,
    current: Tensor,
    historical: Tensor | None,
    scale: float,
) -> Metrics:
    """Per-example metrics, detached: log-probs, rewards, advantages, weights and contingency.

    weights/current is sigmoid(-scale * advantage), the share of a pair's gradient that is left
    under the logistic link (eq. 15 as it should read): 0 means that the pair is saturated.
    """
    rewards = {
        role: loss.reward(policy[role], None if reference is None else reference[role]).detach()
        for role in policy.present()
        if reference is None or role in reference.present()
    }
    metrics = _logp_metrics(policy)
    metrics |= {f"rewards/{role}": reward for role, reward in rewards.items()}
    metrics["advantages/current"] = current.detach()
    metrics["weights/current"] = torch.sigmoid(-scale * current.detach())
    if historical is not None:
        metrics["advantages/historical"] = historical.detach()
        metrics["weights/historical"] = torch.sigmoid(-scale * historical.detach())
    cells = contingency(
        rewards["annotated"], rewards["synthetic"], policy["annotated"], policy["synthetic"]
    )
    metrics |= {f"contingency/{cell}": hit.float() for cell, hit in cells.items()}
    return metrics
