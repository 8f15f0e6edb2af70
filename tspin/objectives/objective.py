"""What every objective is: a frozen dataclass whose fields are its coefficients. No torch.

It is called on log-probabilities of shape (batch,) and knows no model, tokenizer, device,
configuration or rank. A stage asks it what it compares and needs, never for its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tspin.objectives.logps import Logps, Metrics, Role

if TYPE_CHECKING:
    from torch import Tensor

PAIR: tuple[Role, ...] = ("annotated", "synthetic")


@dataclass(frozen=True)
class Range:
    """What a coefficient may be, as a part of its type: Annotated[float, Range("above 0", ...)]."""

    words: str  # as an error says it: must be ...
    holds: Callable[[float], bool]


ABOVE_0 = Range("above 0", lambda value: value > 0)
AT_LEAST_0 = Range("at least 0", lambda value: value >= 0)
Positive = Annotated[float, ABOVE_0]
NonNegative = Annotated[float, AT_LEAST_0]


class Objective(ABC):
    """Base of all objectives; `roles` and the call are what a new one has to say.

    name             by which runs know it; without one of its own it is known by module and class
    needs_reference  whether it and its reward read log pi_t, of the policy at the start of the
                     iteration, which then scores the triplets first
    has_reward       whether `reward` is defined
    per_token        whether it compares means over a response's tokens: its reward is of them
    of_margins       whether it is a function of the advantages c and h alone (less the reference's)
    needs_batch      whether it compares with `statistics` of the whole batch, which a step then
                     takes before its gradient, by one more forward pass
    """

    name: ClassVar[str | None] = None
    needs_reference: ClassVar[bool] = False
    has_reward: ClassVar[bool] = True
    per_token: ClassVar[bool] = False
    of_margins: ClassVar[bool] = False
    needs_batch: ClassVar[bool] = False

    @property
    @abstractmethod
    def roles(self) -> tuple[Role, ...]:
        """Which of annotated, synthetic, proto it compares."""

    @property
    def reference_roles(self) -> tuple[Role, ...]:
        """The responses whose log pi_t has to be scored before the first update."""
        return self.roles if self.needs_reference else ()

    @abstractmethod
    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        """Per-example losses (batch,) and detached per-example metrics (batch,)."""

    def reward(self, logp: Tensor, ref_logp: Tensor | None) -> Tensor:
        """The reward this objective implies for a response, elementwise.

        logp, ref_logp  log pi and log pi_t of it: sums over its tokens, means where per_token
        """
        raise ValueError(f"{self.key()[0]} defines no reward")

    def statistics(self, policy: Logps, reference: Logps | None) -> dict[str, Tensor]:
        """What it compares with in a batch, by name, each (): constants of a step.

        policy, reference  of all triplets of the batch, without a gradient
        """
        return {}

    def of_batch(self, policy: Logps, reference: Logps | None) -> Mapping[str, Tensor]:
        """The statistics that the step took of the whole batch, so that no cut into micro-batches
        changes the gradient; where it took none, those of these rows.
        """
        taken = policy.statistics
        return self.statistics(policy.detached(), reference) if taken is None else taken

    def at(self, t: int) -> Objective:
        """The plainest objective that equals this one at iteration t.

        Runs whose objectives are equal in this form share the iteration.
        """
        return self

    def key(self) -> tuple[str, dict[str, Any]]:
        """What it is, for the keys of iterations: its name and its coefficients.

        A name is a class's own: what derives from it computes something else.
        """
        kind = type(self)
        own = vars(kind).get("name") or f"{kind.__module__}.{kind.__qualname__}"
        return own, {name: getattr(self, name) for name in kind.coefficients()}

    @classmethod
    def coefficients(cls) -> list[str]:
        """The names of its coefficients, in order."""
        return [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
