"""What an objective is computed from: log-probabilities of whole responses, by role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["annotated", "synthetic", "proto"]
ROLES: tuple[Role, ...] = get_args(Role)
Metrics = dict[str, "Tensor"]  # name -> a number for each example, (batch,)


@dataclass(frozen=True)
class Logps:
    """log pi(z | x) by role, each (batch,) in nats; None where a role was not scored.

    Example: Logps(annotated=tensor([-3.1]), synthetic=tensor([-2.0])) is what SPIN reads.
    """

    annotated: Tensor
    synthetic: Tensor | None = None
    proto: Tensor | None = None

    def __getitem__(self, role: Role) -> Tensor:
        logps: Tensor | None = getattr(self, role)
        assert logps is not None, f"no log-probabilities of {role}"
        return logps

    def present(self) -> tuple[Role, ...]:
        return tuple(role for role in ROLES if getattr(self, role) is not None)
