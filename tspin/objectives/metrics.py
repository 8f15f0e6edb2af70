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


def advantage_metrics(
    objective: Objective,
    policy: Logps,
    reference: Logps | None,
    *,
    current: Tensor,
    historical: Tensor | None,
    scale: float,
) -> Metrics:
    """Log-probabilities, rewards, advantages, weights and the contingency table.

    current, historical  advantages as the objective compares them, (batch,); historical may be None
    scale                what the objective multiplies them with

    weights/current is sigmoid(-scale * advantage), the share of a pair's gradient that is left
    under the logistic link (eq. 15 as it should read): 0 means that the pair is saturated.
    """
    import torch  # not at the top: see tspin.objectives.links

    with torch.no_grad():
        rewards = {
            role: objective.reward(policy[role], None if reference is None else reference[role])
            for role in policy.present()
            if reference is None or role in reference.present()
        }
        metrics = logp_metrics(policy)
        metrics |= {f"rewards/{role}": reward.detach() for role, reward in rewards.items()}
        metrics["advantages/current"] = current.detach()
        metrics["weights/current"] = torch.sigmoid(-scale * current.detach())
        if historical is not None:
            metrics["advantages/historical"] = historical.detach()
            metrics["weights/historical"] = torch.sigmoid(-scale * historical.detach())
        cells = contingency(
            rewards["annotated"], rewards["synthetic"], policy["annotated"], policy["synthetic"]
        )
    return metrics | {f"contingency/{cell}": hit.float() for cell, hit in cells.items()}


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
