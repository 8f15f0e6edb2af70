"""What an objective reports beside its losses: per example, detached, and their means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tspin.objectives.contingency import contingency
from tspin.objectives.logps import Logps, Metrics
from tspin.objectives.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor


def logp_metrics(policy: Logps) -> Metrics:
    return {f"logps/{role}": policy[role].detach() for role in policy.present()}


def reward_metrics(objective: Objective, policy: Logps, reference: Logps | None) -> Metrics:
    """Log-probabilities, rewards and the contingency table, of what has been scored.

    The table sets rewards beside log pi(z | x) of whole responses, whatever the reward is made of.
    """
    import torch  # not at the top: see tspin.objectives.links

    metrics = logp_metrics(policy)
    if not objective.has_reward:
        return metrics
    with torch.no_grad():
        mine, theirs = policy, reference
        if objective.per_token:
            mine, theirs = policy.per_token(), None if reference is None else reference.per_token()
        rewards = {
            role: objective.reward(mine[role], None if theirs is None else theirs[role]).detach()
            for role in policy.present()
            if theirs is None or role in theirs.present()
        }
        metrics |= {f"rewards/{role}": reward for role, reward in rewards.items()}
        if not {"annotated", "synthetic"} <= rewards.keys():
            return metrics
        cells = contingency(
            rewards["annotated"], rewards["synthetic"], policy["annotated"], policy["synthetic"]
        )
    return metrics | {f"contingency/{cell}": hit.float() for cell, hit in cells.items()}


def advantage_metrics(
    objective: Objective,
    policy: Logps,
    reference: Logps | None,
    *,
    current: Tensor,
    historical: Tensor | None,
    scale: float,
) -> Metrics:
    """reward_metrics, advantages and weights.

    current, historical  advantages as the objective compares them, (batch,); historical may be None
    scale                what the objective multiplies them with

    weights/current is sigmoid(-scale * advantage), the share of a pair's gradient that is left
    under the logistic link (eq. 15 as it should read): 0 means that the pair is saturated.
    """
    import torch  # not at the top: see tspin.objectives.links

    metrics = reward_metrics(objective, policy, reference)
    with torch.no_grad():
        metrics["advantages/current"] = current.detach()
        metrics["weights/current"] = torch.sigmoid(-scale * current.detach())
        if historical is not None:
            metrics["advantages/historical"] = historical.detach()
            metrics["weights/historical"] = torch.sigmoid(-scale * historical.detach())
    return metrics


def mean_metrics(batches: Iterable[Metrics]) -> dict[str, float]:
    """Mean over all examples of several micro-batches, however they were cut.

    A device is waited for once, for all of them.
    """
    import torch  # not at the top: see tspin.objectives.links

    columns: dict[str, list[Tensor]] = {}
    for metrics in batches:
        for key, values in metrics.items():
            columns.setdefault(key, []).append(values.double())
    means = torch.stack([torch.cat(values).mean() for values in columns.values()])
    return dict(zip(columns, means.tolist(), strict=True))
