"""What an objective is computed from: log-probabilities of whole responses, by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["annotated", "synthetic", "proto"]
ROLES: tuple[Role, ...] = get_args(Role)
Metrics = dict[str, "Tensor"]  # name -> a number for each example, (batch,)


@dataclass(frozen=True)
class Logps:
    """log pi(z | x) by role, each (batch,) in nats; None where a role was not scored.

    lengths     tokens of each response, by role, (batch,); None where nobody asked for them
    statistics  of the whole batch that these rows are of, by name, each (): what the objective
                took of it (Objective.statistics); None where nobody did

    Example: Logps(annotated=tensor([-3.1]), synthetic=tensor([-2.0])) is what SPIN reads.
    """

    annotated: Tensor | None = None
    synthetic: Tensor | None = None
    proto: Tensor | None = None
    lengths: Mapping[Role, Tensor] | None = None
    statistics: Mapping[str, Tensor] | None = None

    def __getitem__(self, role: Role) -> Tensor:
        logps: Tensor | None = getattr(self, role)
        assert logps is not None, f"no log-probabilities of {role}"
        return logps

    def present(self) -> tuple[Role, ...]:
        return tuple(role for role in ROLES if getattr(self, role) is not None)

    def with_values(self, values: Mapping[Role, Tensor]) -> Logps:
        """The same with other log-probs for some roles."""
        fields: dict[str, Any] = {role: value for role, value in values.items()}
        return replace(self, **fields)

    def per_token(self) -> Logps:
        """avg log pi(z | x) = log pi(z | x) / |z|, in nats a token."""
        assert self.lengths is not None, "means over tokens need the lengths of the responses"
        return self.with_values({role: self[role] / self.lengths[role] for role in self.present()})

    def detached(self) -> Logps:
        """The same numbers, without a gradient."""
        return self.with_values({role: self[role].detach() for role in self.present()})
