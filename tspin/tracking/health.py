"""Plain words for a run that goes wrong without failing. Each returns a warning, or None.

`alerts` puts together all that metrics alone show: for pages and trackers, while a run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLLAPSE = 1.5  # times the log-likelihood of y that the initial policy gives it
SATURATED = 0.01  # mean weight of a pair's gradient
MANY_CUT = 0.5
MANY_IDENTICAL = 0.5
IDENTICAL = {  # kind of warning -> which responses are one, and what that means
    "same": (
        "y' equals y",
        "those pairs teach nothing. The initial policy may have been trained on this very data",
    ),
    "unmoved": (
        "y' equals y0",
        "the policy still says what it said before training, and the historical advantage is 0 "
        "there. A larger optim.lr or more optim.epochs would move it",
    ),
    "y0_same": (
        "y0 equals y",
        "the historical term pushes y' above the annotated response itself. A smaller coef.beta "
        "does less of that, loss=wo_ha nothing",
    ),
}
LESS_ENTROPY = 0.3  # of the entropy that the initial policy's samples have
SHORTER, LONGER = 0.5, 2.0  # times the mean length of the initial policy's samples
MISALIGNED = 0.1  # share of pairs, and by how much it has risen

Steps = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl of one iteration


def alerts(
    steps: Mapping[int, Steps],
    lengths: Mapping[int, float] | None = None,
    finish_reasons: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Kind -> warning, of a run as far as it has come.

    steps           by iteration, those begun included; of those that have some the first and the
                    last say all
    lengths         mean tokens of y' by iteration, where it is sampled
    finish_reasons  of the last iteration's samples, how often each
    """
    begun = [steps[t] for t in sorted(steps) if steps[t]]
    if not begun:
        return {}
    first, last = begun[0], begun[-1]
    sampled = [length for _, length in sorted((lengths or {}).items())]
    start, end = (_mean(part, "logps/annotated") for part in (first[:1], _tail(last)))
    warnings = {
        "collapse": None if start is None or end is None else collapse(start, end),
        "entropy": entropy(first, last),
        "lengths": length(sampled[0], sampled[-1]) if len(sampled) > 1 else None,
        "misaligned": misaligned(first, last),
        "cut": cut(finish_reasons or {}),
        "gradient": no_gradient(last),
        "saturation": saturation(last),
    }
    return {kind: text for kind, text in warnings.items() if text is not None}


def collapse(first: float, now: float) -> str | None:
    """first, now: mean log pi(y) in nats at the run's first step and after this iteration."""
    if now < COLLAPSE * first < 0:
        return (
            f"log pi(y) has fallen from {first:.1f} to {now:.1f} nats: nothing in a reference-free "
            "objective holds it up. Watch the samples; a smaller optim.lr or coef.alpha slows it"
        )
    return None


def saturation(steps: Steps) -> str | None:
    """steps: rows of metrics.jsonl of one iteration; reads its last tenth."""
    weights = [row["weights/current"] for row in steps if "weights/current" in row]
    tail = weights[-max(1, len(weights) // 10) :]
    if tail and sum(tail) / len(tail) < SATURATED:
        return (
            f"the margins are saturated: the mean pair keeps {sum(tail) / len(tail):.2%} of its "
            "gradient. A smaller coef.alpha (coef.lambda for spin) or fewer epochs would use more"
        )
    return None


def cut(finish_reasons: Mapping[str, int]) -> str | None:
    """finish_reasons: how often each"""
    share = finish_reasons.get("length", 0) / max(1, sum(finish_reasons.values()))
    if share > MANY_CUT:
        return (
            f"{share:.0%} of the samples were cut at decoding.max_new_tokens before the model "
            "stopped: it never sees the end of a response of its own"
        )
    return None


def identical(kind: str, num_identical: int, num_rows: int) -> str | None:
    """kind: of IDENTICAL"""
    if num_rows and num_identical / num_rows > MANY_IDENTICAL:
        equal, meaning = IDENTICAL[kind]
        return f"{equal} on {num_identical} of {num_rows} rows: {meaning}"
    return None


def entropy(first: Steps, last: Steps) -> str | None:
    """first, last: steps of two iterations. The mean of -log pi(y') per token at an iteration's
    first steps, when the policy is still the one that y' was sampled from, estimates its entropy.
    """
    key = "logps_per_token/synthetic"
    values = [_mean(part[: max(1, len(part) // 10)], key) for part in (first, last)]
    before, now = (None if value is None else -value for value in values)
    if before is not None and now is not None and now < LESS_ENTROPY * before:
        return (
            f"the entropy of the samples has collapsed from {before:.3f} to {now:.3f} nats a "
            "token: the policy says nearly one thing. A smaller optim.lr or fewer iterations"
        )
    return None


def length(first: float, now: float) -> str | None:
    """first, now: mean tokens of y' in the first and in the last iteration."""
    if first > 0 and not SHORTER * first <= now <= LONGER * first:
        how = "shrunk" if now < first else "grown"
        return (
            f"samples have {how} from {first:.0f} to {now:.0f} tokens on average: sums of "
            "log-probabilities reward length; read some, and look at decoding.max_new_tokens"
        )
    return None


def misaligned(first: Steps, last: Steps) -> str | None:
    """first, last: steps of two iterations; by how much the share of pairs that reward and
    log-likelihood rank differently has risen from the first step to the last ones."""
    keys = ("contingency/reward_only", "contingency/logp_only")
    ends = first[:1], _tail(last)
    shares = [sum(_mean(part, key) or 0.0 for key in keys) for part in ends]
    if shares[1] > MISALIGNED and shares[1] - shares[0] > MISALIGNED:
        return (
            f"reward and log-likelihood rank {shares[1]:.0%} of the pairs differently, "
            f"{shares[0]:.0%} at the start: what is rewarded is not what is sampled. A "
            "reference-free objective (loss=tspin) ranks by one number"
        )
    return None


def no_gradient(steps: Steps) -> str | None:
    """steps: of one iteration; reads its last tenth."""
    norms = [row["grad_norm"] for row in _tail(steps) if "grad_norm" in row]
    if norms and max(norms) == 0:
        return (
            "the gradient is zero: nothing is learned any more. Every pair may be saturated (a "
            "smaller coef.alpha) or have equal responses"
        )
    return None


def _tail(steps: Steps) -> Steps:
    return steps[-max(1, len(steps) // 10) :]


def _mean(steps: Steps, key: str) -> float | None:
    values = [row[key] for row in steps if row.get(key) is not None]
    return sum(values) / len(values) if values else None
