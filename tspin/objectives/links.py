"""The link l of an objective: convex and decreasing, applied to a scaled advantage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

LinkName = Literal["logistic", "exponential"]


def logistic(u: Tensor) -> Tensor:
    """l(u) = -log sigmoid(u), (batch,) -> (batch,); its derivative is -sigmoid(-u).

    The paper's eq. (15) prints -sigmoid(u); that is not the derivative of its own link.
    """
    # Not at the top: the plan of a sweep builds objectives and must not wait for torch.
    from torch.nn.functional import logsigmoid

    return -logsigmoid(u)


def exponential(u: Tensor) -> Tensor:
    """l(u) = exp(-u), (batch,) -> (batch,); its derivative is -exp(-u)."""
    return (-u).exp()


LINKS: dict[LinkName, Callable[[Tensor], Tensor]] = {
    "logistic": logistic,
    "exponential": exponential,
}
