"""Stage: what a policy's answers are worth, where the data can tell.

Held-out prompts of a task that checks its own answers are answered greedily and at temperature 1
with the sampling numbers of the next iteration, so that policies compare on the same prompts and
the same luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tspin.artifacts import ANSWERS, Iteration
from tspin.config import DecodingConfig
from tspin.console import progress
from tspin.data import Check
from tspin.files import write_json, write_rows
from tspin.model import Policy
from tspin.sampling import batches, respond, uniforms


def evaluate(
    policy: Policy,
    prompts: Sequence[dict[str, Any]],
    check: Check,
    out: Iteration,
    *,
    task: str,
    how: DecodingConfig,
    seed: int,
    t: int,
    label: str,
) -> None:
    """Leaves answers.parquet (per prompt) and eval.json (task -> metric -> value, stderr, n).

    prompts  held-out rows of prompts.parquet
    t        the iteration that this policy samples for next
    """
    by_id = {row["id"]: row for row in prompts}
    prompt_ids = {i: row["prompt_ids"] for i, row in by_id.items()}
    rows: list[dict[str, Any]] = []
    with progress(2 * len(prompts), label, "answer") as bar:
        for decoding in ("greedy", "sampled"):
            for ids in batches(prompt_ids, how.batch_size):
                numbers = (
                    uniforms(seed, t, ids, how.max_new_tokens) if decoding == "sampled" else None
                )
                responses = respond(policy, [prompt_ids[i] for i in ids], numbers, how)
                for i, response_ids in zip(ids, responses, strict=True):
                    response = policy.renderer.text(response_ids)
                    stopped = response_ids[-1] in policy.renderer.stop_ids
                    right = bool(stopped and check(by_id[i]["prompt"], response))
                    rows.append(
                        {
                            "id": i,
                            "decoding": decoding,
                            "response": response,
                            "correct": right,
                        }
                    )
                bar.update(len(ids))
    write_rows(out.answers, rows, ANSWERS)
    write_json(
        out.evaluation,
        {
            task: {
                f"exact_match,{decoding}": proportion(
                    [row["correct"] for row in rows if row["decoding"] == decoding]
                )
                for decoding in ("greedy", "sampled")
            }
        },
    )


def proportion(hits: Sequence[bool]) -> dict[str, float]:
    """Share of hits with its binomial standard error over the prompts."""
    n = len(hits)
    value = sum(hits) / n
    return {"value": value, "stderr": math.sqrt(value * (1 - value) / n), "n": n}
