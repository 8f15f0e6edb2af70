"""What a policy is worth, in one file: eval.json, counted from what the stages left. No torch.

Held-out diagnostics need no benchmark: how likely the annotated responses are, how far the reward
tells them from samples, how long and how varied samples are, how many are right.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tspin.runs.artifacts import Iteration
from tspin.tools.files import read_json, write_json
from tspin.tools.parquet import each_row, read_rows

Estimate = dict[str, Any]  # value, stderr (None: unknown), n
Families = dict[str, dict[str, Estimate]]  # family of instructions -> metric -> its estimate
MAX_NGRAM = 3
# The main held-out number of a run is the first of these that it has -> whether more is better.
MAIN = {"exact_match,greedy": True, "exact_match,sampled": True, "perplexity": False}


def write(
    out: Iteration, benchmarks: dict[str, Any], parts: Mapping[str, int] | None = None
) -> None:
    """eval.json: `heldout`, where prompts are held out, and what benchmark.results gives.

    families only where prompts have instructions that are judged one by one; see `of_families`

    parts    of the held-out prompts by id, where the data shift; see `in_time`
    heldout  metric -> value, stderr, n; see `of_scores` and `of_answers`. An infinite
             perplexity is left out, as JSON has no number for it: logp_per_token says the same
    """
    heldout: dict[str, Estimate] = {}
    families: Families = {}
    if out.scores.exists():
        rows = [r for r in each_row(out.scores) if r["split"] == "heldout"]
        heldout |= of_scores(rows)
        heldout |= in_time(rows, parts or {}, out.now, of_scores, "logp_per_token")
    if out.answers.exists():
        answers = read_rows(out.answers)
        for decoding in dict.fromkeys(row["decoding"] for row in answers):
            rows = [row for row in answers if row["decoding"] == decoding]
            estimates = of_answers(rows) | of_verdicts(rows)
            estimates |= in_time(rows, parts or {}, out.now, of_answers, "exact_match")
            heldout |= {_of_decoding(metric, decoding): it for metric, it in estimates.items()}
            for family, of in of_families(rows).items():
                named = {f"{metric},{decoding}": value for metric, value in of.items()}
                families.setdefault(family, {}).update(named)
    if math.isinf(heldout.get("perplexity", {"value": 0.0})["value"]):
        del heldout["perplexity"]
    sections = {"heldout": heldout, "families": families}
    write_json(out.evaluation, {name: it for name, it in sections.items() if it} | benchmarks)


def main_estimate(out: Iteration, metric: str | None = None) -> tuple[str, Estimate] | None:
    """The first metric of MAIN that eval.json has, or the one given; None without it."""
    if not out.evaluation.exists():
        return None
    heldout = read_json(out.evaluation).get("heldout", {})
    names = MAIN if metric is None else (metric,)
    return next(((name, heldout[name]) for name in names if name in heldout), None)


def main_number(out: Iteration) -> tuple[str, float] | None:
    """The main metric and its value; None where no prompt is held out."""
    estimate = main_estimate(out)
    return None if estimate is None else (estimate[0], estimate[1]["value"])


def divergence(out: Iteration) -> str | None:
    """Why a policy has diverged, if the perplexity of the annotated responses is infinite."""
    if not out.evaluation.exists():
        return None
    heldout = read_json(out.evaluation).get("heldout", {})
    if "logp_per_token" not in heldout or "perplexity" in heldout:
        return None
    rate = heldout["logp_per_token"]["value"]
    return f"log pi(y) is {rate:.0f} nats a token, and the perplexity infinite"


def in_time(
    rows: Sequence[dict[str, Any]],
    parts: Mapping[str, int],
    now: int,
    estimates: Callable[[Sequence[dict[str, Any]]], dict[str, Estimate]],
    metric: str,
) -> dict[str, Estimate]:
    """One of the estimates by time, of held-out rows in parts (data.shift).

    METRIC,part_K   of the rows of part K
    METRIC,current  of those of the part that the iteration trained on for the first time
    METRIC,past     of those of all parts before
    """
    periods: dict[str, list[dict[str, Any]]] = {}
    for row in rows if parts else ():
        part = parts[row["id"]]
        names = [f"part_{part}"] + ["current"] * (part == now) + ["past"] * (part < now)
        for name in names:
            periods.setdefault(name, []).append(row)
    of_periods = {name: estimates(periods[name]) for name in sorted(periods)}
    return {f"{metric},{name}": of[metric] for name, of in of_periods.items() if metric in of}


def of_scores(rows: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    """Diagnostics of held-out triplets from their rows of scores.parquet.

    logp             mean log pi(y) of annotated responses, nats
    logp_per_token   the same over all their tokens, nats per token
    perplexity       exp of minus that; infinite where it is beyond the largest float
    logp_margin      mean of log pi(y) - log pi(y'), nats
    margin           mean of reward(y) - reward(y'), nats, where the objective has a reward
    margin_accuracy  share of prompts with reward(y) > reward(y'), likewise
    """
    by_role: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_role.setdefault(row["role"], {})[row["id"]] = row
    annotated = by_role.get("annotated", {})
    if not annotated:
        return {}
    per_token = _ratio(
        [row["logp"] for row in annotated.values()],
        [row["num_tokens"] for row in annotated.values()],
    )
    perplexity, stderr = _exp(-per_token["value"]), per_token["stderr"]
    estimates = {
        "logp": _mean([row["logp"] for row in annotated.values()]),
        "logp_per_token": per_token,
        # delta method: d exp(-u) = -exp(-u) du
        "perplexity": per_token
        | {
            "value": perplexity,
            "stderr": None if stderr is None or math.isinf(perplexity) else stderr * perplexity,
        },
    }
    pairs = [(annotated[i], row) for i, row in by_role.get("synthetic", {}).items()]
    if pairs:
        estimates["logp_margin"] = _mean([y["logp"] - s["logp"] for y, s in pairs])
    if pairs and all(row["reward"] is not None for pair in pairs for row in pair):
        margins = [y["reward"] - s["reward"] for y, s in pairs]
        estimates["margin"] = _mean(margins)
        estimates["margin_accuracy"] = _mean([float(margin > 0) for margin in margins])
    return estimates


def of_answers(rows: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    """Diagnostics of the answers of one decoding, from rows of answers.parquet.

    exact_match     share of right answers, where a program can tell, over all draws
    distinct_right  mean number of different right answers among the draws of a prompt; it grows
                    with their number
    num_tokens      mean length in tokens, EOS included
    finished        share that ended by themselves, not at the limit
    distinct_n      different n-grams of tokens over all of them, n = 1..3 (arXiv 1510.03055), of
                    each prompt's first answer; it falls with the number of prompts, so that only
                    equal numbers compare
    """
    estimates = {}
    if all(row["correct"] is not None for row in rows):
        estimates["exact_match"] = _per_prompt(rows, lambda row: float(row["correct"]))
        if any(row["draw"] > 0 for row in rows):
            different: dict[str, set[str]] = {row["id"]: set() for row in rows}
            for row in rows:
                different[row["id"]] |= {row["canonical"]} - {None}
            estimates["distinct_right"] = _mean([len(answers) for answers in different.values()])
    estimates["num_tokens"] = _per_prompt(rows, lambda row: row["num_tokens"])
    estimates["finished"] = _per_prompt(rows, lambda row: float(row["finish_reason"] == "stop"))
    firsts = [row for row in rows if row["draw"] == 0]
    for n in range(1, MAX_NGRAM + 1):
        grams = [
            tuple(row["response_ids"][i : i + n])
            for row in firsts
            for i in range(row["num_tokens"] - n + 1)
        ]
        if grams:
            share = len(set(grams)) / len(grams)
            estimates[f"distinct_{n}"] = {"value": share, "stderr": None, "n": len(firsts)}
    return estimates


def of_verdicts(rows: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    """Of answers of one decoding to prompts of one instruction or more (artifacts.VERDICTS).

    Strictly, and loosely: without the answer's first or last line or its stars, where that helps
    (arXiv 2311.07911, section 2.2). The share of prompts of which all is followed, strictly, is
    exact_match.

    prompt_loose        share of prompts of which all is followed
    instruction_strict  share of instructions that are followed
    instruction_loose   the same
    strict_KIND         exact_match of the prompts of a kind: known, combination, family
    """
    if not rows or "kind" not in rows[0]:
        return {}
    estimates = {
        "prompt_loose": _per_prompt(rows, lambda row: float(all(row["loose"]))),
        "instruction_strict": _per_instruction(rows, "strict"),
        "instruction_loose": _per_instruction(rows, "loose"),
    }
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        estimates[f"strict_{kind}"] = _per_prompt(own, lambda row: float(row["correct"]))
    return estimates


def of_families(rows: Sequence[dict[str, Any]]) -> Families:
    """Of the same answers: family -> strict, loose: shares of its instructions that are followed"""
    if not rows or "kind" not in rows[0]:
        return {}
    families = sorted({family for row in rows for family in row["families"]})
    return {
        family: {how: _per_instruction(rows, how, family) for how in ("strict", "loose")}
        for family in families
    }


def _of_decoding(metric: str, decoding: str) -> str:
    """exact_match,greedy,current of exact_match,current"""
    name, *period = metric.split(",")
    return ",".join([name, decoding, *period])


def _exp(value: float) -> float:
    return math.exp(value) if value < math.log(sys.float_info.max) else math.inf


def _per_prompt(
    rows: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]
) -> Estimate:
    """Mean over all rows; prompts are independent, the draws of one are not."""
    return _clustered((row["id"], value(row)) for row in rows)


def _per_instruction(
    rows: Sequence[dict[str, Any]], how: str, family: str | None = None
) -> Estimate:
    """Mean over the instructions of all rows, or those of one family.

    how  "strict" or "loose"
    """
    return _clustered(
        (row["id"], float(follows))
        for row in rows
        for name, follows in zip(row["families"], row[how], strict=True)
        if family in (None, name)
    )


def _clustered(values: Iterable[tuple[str, float]]) -> Estimate:
    """Mean of values, each with its prompt; those of one prompt are not independent."""
    by_prompt: dict[str, list[float]] = {}
    for prompt, value in values:
        by_prompt.setdefault(prompt, []).append(value)
    return _ratio([sum(v) for v in by_prompt.values()], [len(v) for v in by_prompt.values()])


def _mean(values: Sequence[float]) -> Estimate:
    return _ratio(values, [1] * len(values))


def _ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """sum(above) / sum(below) over prompts, with the ratio estimator's standard error."""
    n = len(above)
    value = sum(above) / sum(below)
    stderr = None
    if n > 1:
        residuals = (a - value * b for a, b in zip(above, below, strict=True))
        spread = math.fsum(residual**2 for residual in residuals) / (n - 1)
        stderr = math.sqrt(spread / n) / (sum(below) / n)
    return {"value": value, "stderr": stderr, "n": n}
