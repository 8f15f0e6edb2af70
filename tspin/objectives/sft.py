"""Supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tspin.objectives.logps import Logps, Metrics, Role
from tspin.objectives.metrics import logp_metrics
from tspin.objectives.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SFT(Objective):
    """-log pi(y): supervised fine-tuning, the sum over the response's tokens (not their mean).

    The sum weighs every token alike; trainers that optimise the per-example token mean weigh
    short responses more. It has no reward.
    """

    name: ClassVar[str] = "sft"
    roles: ClassVar[tuple[Role, ...]] = ("annotated",)
    has_reward: ClassVar[bool] = False

    def __call__(self, policy: Logps, reference: Logps | None = None) -> tuple[Tensor, Metrics]:
        return -policy["annotated"], logp_metrics(policy)
