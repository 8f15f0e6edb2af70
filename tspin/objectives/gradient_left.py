"""How much of a row's gradient an objective has left, whatever the objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tspin.objectives.logps import Logps, Role
from tspin.objectives.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor


def gradient_left(
    objective: Objective, policy: Logps, reference: Logps | None, texts: Mapping[Role, Tensor]
) -> Tensor:
    """The share of a row's gradient that is left: that of three different responses which are
    equally likely, and as likely as under the reference, is 1.

    The gradient is the loss's by c, h and log pi(y'), of which y, y' and y0 are made: the sum of
    its three sizes. For T-SPIN, w/o H-A and SPIN under the logistic link it is

        2 (sigmoid(-alpha c) + beta sigmoid(-alpha h)) / (1 + beta)

    c and h less those of the reference, where there is one: 0 where the row is learned, 2 where it
    is the wrong way around. A margin between two responses that are the same has no gradient, and
    its term is left out: c where y' is y, h where y' is y0.

    policy, reference  log pi and log pi_t by role, each (batch,), with the lengths where the
                       objective is per_token
    texts              by role a number for each response, (batch,): in a row, equal numbers are of
                       one response
    -> (batch,) float64
    """
    import torch  # not at the top: see tspin.objectives.links

    likely = policy.per_token()["annotated"] if objective.per_token else policy["annotated"]
    units = policy.lengths if objective.per_token else None
    equal = policy.with_values(
        {role: likely * units[role] if units else likely for role in policy.present()}
    )
    others = {role: torch.full_like(likely, i) for i, role in enumerate(policy.present())}
    whole = _sizes(objective, equal, None if reference is None else equal, others)
    left = _sizes(objective, policy, reference, texts)
    # To 12 decimals: what cancels is 0.
    return torch.where(whole > 0, left / whole, left).round(decimals=12)


def _sizes(
    objective: Objective, policy: Logps, reference: Logps | None, texts: Mapping[Role, Tensor]
) -> Tensor:
    """|d loss / dc| + |d loss / dh| + |d loss / d log pi(y')|, at y = y' + c and y0 = y' - h."""
    import torch

    with torch.enable_grad():
        inputs = {role: policy[role].detach().double().requires_grad_() for role in objective.roles}
        losses, _ = objective(policy.with_values(inputs), reference)
        slopes = torch.autograd.grad(losses.sum(), [*inputs.values()], allow_unused=True)
    none = torch.zeros_like(losses)
    by_role = {
        role: none if slope is None else slope for role, slope in zip(inputs, slopes, strict=True)
    }
    of_y, of_y0 = by_role.get("annotated", none), by_role.get("proto", none)
    same = none.bool()

    def equal(role: Role, other: Role) -> Tensor:
        return texts[role] == texts[other] if {role, other} <= by_role.keys() else same

    # y0 that is y moves with it; either of them that is y' moves with the level.
    one = equal("proto", "annotated")
    of_y, of_y0 = (of_y + of_y0).where(one, of_y), none.where(one, of_y0)
    of_c = none.where(equal("annotated", "synthetic"), of_y)
    of_h = none.where(equal("proto", "synthetic"), of_y0)
    return of_c.abs() + of_h.abs() + sum(by_role.values(), none).abs()
