"""Plain words for a run that goes wrong without failing. Each returns a warning, or None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLLAPSE = 1.5  # times the log-likelihood of y that the initial policy gives it
SATURATED = 0.01  # mean weight of a pair's gradient
MANY_CUT = 0.5
MANY_IDENTICAL = 0.5


def collapse(first: float, now: float) -> str | None:
    """first, now: mean log pi(y) in nats at the run's first step and after this iteration."""
    if now < COLLAPSE * first < 0:
        return (
            f"log pi(y) has fallen from {first:.1f} to {now:.1f} nats: nothing in a reference-free "
            "objective holds it up. Watch the samples; a smaller optim.lr or coef.alpha slows it"
        )
    return None


def saturation(steps: Sequence[dict[str, Any]]) -> str | None:
    """steps: rows of metrics.jsonl of one iteration; reads its last tenth."""
    weights = [row["weights/current"] for row in steps if "weights/current" in row]
    tail = weights[-max(1, len(weights) // 10) :]
    if tail and sum(tail) / len(tail) < SATURATED:
        return (
            f"the margins are saturated: the mean pair keeps {sum(tail) / len(tail):.2%} of its "
            "gradient. A smaller coef.alpha (coef.lambda for spin) or fewer epochs would use more"
        )
    return None


def cut(finish_reasons: Sequence[str]) -> str | None:
    share = sum(reason == "length" for reason in finish_reasons) / max(1, len(finish_reasons))
    if share > MANY_CUT:
        return (
            f"{share:.0%} of the samples were cut at decoding.max_new_tokens before the model "
            "stopped: it never sees the end of a response of its own"
        )
    return None


def identical(num_identical: int, num_rows: int) -> str | None:
    if num_rows and num_identical / num_rows > MANY_IDENTICAL:
        return (
            f"y' equals y on {num_identical} of {num_rows} rows: those pairs teach nothing. The "
            "initial policy may have been trained on this very data"
        )
    return None
