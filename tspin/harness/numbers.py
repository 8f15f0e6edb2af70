"""lm-eval's results in the shape of eval.json, and what IFEval lacks there. No lm-eval here."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

ORIGINAL = "exact_match_original"  # of the MATH tasks, by sympy's LaTeX parser


def tabulate(results: Mapping[str, Any], built: Mapping[str, Any], task: str) -> dict[str, Any]:
    """lm-eval's results of one task or group in the shape of eval.json, those of its parts too."""
    leaves = {name: [name] for name in built["tasks"]}
    for name, group in built["groups"].items():
        leaves[name] = [leaf.task_name for leaf in group.get_all_tasks()]
    leaves.setdefault(task, list(built["tasks"]))  # a tag: tasks without a number in common
    left_out: dict[str, str] = {}
    entries = {name: _entry(results, name, leaves[name], left_out) for name in leaves}
    return {
        **entries.pop(task),
        "subtasks": entries,
        **({"left_out": left_out} if left_out else {}),
    }


def _entry(
    results: Mapping[str, Any], name: str, leaves: Sequence[str], left_out: dict[str, str]
) -> dict[str, Any]:
    metrics: dict[str, dict[str, float | None]] = {}
    row = results["results"].get(name, {})
    for key, value in row.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        if metric == ORIGINAL and not parses_latex():
            left_out[key] = (
                "sympy's LaTeX parser needs antlr4-python3-runtime 4.11, Hydra 1.3 needs 4.9: "
                "lm-eval would count every answer that is not the same text as wrong"
            )
        elif (number := _number(value)) is None:
            left_out[key] = f"{value!r} is no finite number"
        else:
            metrics[key] = {"value": number, "stderr": _number(row.get(f"{metric}_stderr,{kind}"))}
    samples = results["samples"].get(name, [])
    if samples and "inst_level_strict_acc" in samples[0]:
        metrics |= instructions_followed(samples)
    shots = {results["n-shot"][leaf] for leaf in leaves}
    version = results["versions"].get(name)
    return {
        "num_fewshot": shots.pop() if len(shots) == 1 else None,
        "n": sum(results["n-samples"][leaf]["effective"] for leaf in leaves),
        "version": None if version == "N/A" else version,
        "metrics": metrics,
    }


def instructions_followed(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What IFEval lacks in lm-eval: the error of instruction-level accuracy, and the mean of both.

    With p_i in {0, 1} whether prompt i is followed whole, s_i of its m_i instructions followed:

        P = mean p_i,  R = sum s_i / sum m_i,  mean = (P + R) / 2    (Open LLM Leaderboard v2)

    Prompts are independent, the instructions of one are not: R is linearised as a ratio over
    prompts, e_i = (s_i - R m_i) / mean(m), and Var = sum d_i^2 / (n (n - 1)) with d_i = e_i for R,
    (p_i - P + e_i) / 2 for the mean.
    """
    n = len(samples)
    metrics: dict[str, dict[str, Any]] = {}
    for level in ("strict", "loose"):
        whole = [float(sample[f"prompt_level_{level}_acc"]) for sample in samples]
        each = [sample[f"inst_level_{level}_acc"] for sample in samples]
        total = sum(map(len, each))
        prompt_acc, inst_acc = sum(whole) / n, sum(map(sum, each)) / total
        ratio = [(sum(hits) - inst_acc * len(hits)) * n / total for hits in each]
        both = [(p - prompt_acc + e) / 2 for p, e in zip(whole, ratio, strict=True)]
        for name, value, deviations in [
            (f"inst_level_{level}_acc", inst_acc, ratio),
            (f"{level}_acc_mean", (prompt_acc + inst_acc) / 2, both),
        ]:
            squares = sum(d * d for d in deviations)
            stderr = math.sqrt(squares / (n * (n - 1))) if n > 1 else None
            metrics[f"{name},none"] = {"value": value, "stderr": stderr}
    return metrics


def _number(value: Any) -> float | None:
    """A finite float, or None for what lm-eval writes where there is none ("N/A")."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


@functools.cache
def parses_latex() -> bool:
    from sympy.parsing.latex import parse_latex

    try:
        parse_latex(r"\frac{1}{2}")
    except ImportError:
        return False
    return True
