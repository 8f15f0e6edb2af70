"""The two advantages that objectives are made of, each (batch,) in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tspin.objectives.logps import Logps

if TYPE_CHECKING:
    from torch import Tensor


def current_advantage(logps: Logps) -> Tensor:
    """c = log pi(y) - log pi(y'), of the annotated response over the synthetic one."""
    return logps["annotated"] - logps["synthetic"]


def historical_advantage(logps: Logps) -> Tensor | None:
    """h = log pi(y') - log pi(y0), of the synthetic response over the proto-synthetic one.

    Eq. (7) of arXiv 2601.08198. At iteration 0 y' is y0 and h is exactly 0 (the paper's remark that
    it is c there contradicts this). None where y0 was not scored.
    """
    return None if logps.proto is None else logps["synthetic"] - logps["proto"]
