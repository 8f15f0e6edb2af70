"""What the first step of a run shows that its user should know before the hours are spent.

Reads the step's row of metrics.jsonl, whose forward pass was that of the policy before any update;
computes nothing anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tspin.config import auto
from tspin.config.objective import KEYS_OF_COEF, SCALES
from tspin.config.run import Run
from tspin.config.schedules import at

LEAST_WEIGHT = 0.1  # mean share of a pair's gradient under which a run is warned of
MANY_CUT = 0.5  # share of the rows


def warnings(
    run: Run, row: Mapping[str, Any], facts: Mapping[str, Any], mean_tokens: float
) -> dict[str, str | None]:
    """Kind -> warning, or None.

    row          of the run's first step
    facts        data.json
    mean_tokens  of the annotated responses that are trained on
    """
    return {
        "first_gradient": little_gradient(run, row, mean_tokens),
        "rows_cut": rows_cut(run, facts),
    }


def little_gradient(run: Run, row: Mapping[str, Any], mean_tokens: float) -> str | None:
    """A coefficient that leaves the mean pair LEAST_WEIGHT of its gradient; and coef.alpha=auto,
    where that is less than alpha is now.

    With the mean advantage A, sigmoid(-X * A) = w gives X = log(1 / w - 1) / A. The mean over pairs
    is at least that while X * advantage stays above -7.8, where the sigmoid, at w = .1, is above
    its tangent.
    """
    weight, advantage = row.get("weights/current"), row.get("advantages/current")
    if weight is None or advantage is None or weight >= LEAST_WEIGHT:
        return None
    message = f"the mean pair keeps {weight:.2%} of its gradient at the first step"
    scale = next((name for name in SCALES if name in run.loss.coefficients), None)
    if scale is None or advantage <= 0:
        return f"{message}: its margin is too large for this objective's coefficients"
    largest = math.log(1 / LEAST_WEIGHT - 1) / advantage
    digits = 1 - math.floor(math.log10(largest))  # two that count, rounded down
    value = math.floor(largest * 10**digits) / 10**digits
    key, now = f"coef.{KEYS_OF_COEF.get(scale, scale)}", run.loss.coefficients[scale]
    by_length = auto.alpha(mean_tokens)
    other = ""
    if key == auto.ALPHA and by_length < at(now, row["iteration"]):
        other = f"; {key}={auto.AUTO} makes it {by_length:g}, by the length of the responses"
    return (
        f"{message}, as y is {advantage:.1f} nats likelier than y' on average; {key}={value:g} "
        f"would leave {LEAST_WEIGHT:.0%} or more{other}"
    )


def rows_cut(run: Run, facts: Mapping[str, Any]) -> str | None:
    """Names the limits of what is cut. facts: data.json; a row may be in both counts."""
    number = facts["num_train"] + facts["num_heldout"]
    prompts, responses = facts["num_prompts_cut"], facts["num_responses_cut"]
    limits: dict[str, int] = {}
    if prompts > MANY_CUT * number:
        limits |= dict([run.prompt_limit])
    if responses > MANY_CUT * number:
        limits["model.max_length"] = run.model.max_length
    if not limits:
        return None
    larger = " and ".join(f"{key} ({value} here)" for key, value in limits.items())
    return (
        f"{prompts} prompts and {responses} responses of {number} rows are cut: a larger {larger} "
        "would keep them whole"
    )
