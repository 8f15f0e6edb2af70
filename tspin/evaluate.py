"""Stage: a policy answers held-out prompts: greedily where a program can check, and by sampling.

Samples are drawn with the numbers of the next iteration, so that policies compare on the same
prompts and the same luck. What the answers are worth is `evaluation`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tspin.artifacts import ANSWERS
from tspin.config import DecodingConfig
from tspin.console import progress
from tspin.data import Check
from tspin.files import write_rows
from tspin.model import Policy
from tspin.sampling import batches, respond, response_row, uniforms


def evaluate(
    policy: Policy,
    prompts: Sequence[dict[str, Any]],
    check: Check | None,
    out: Path,
    *,
    how: DecodingConfig,
    seed: int,
    t: int,
    label: str,
) -> None:
    """Leaves the answers, one parquet row per prompt and decoding (artifacts.ANSWERS).

    prompts  held-out rows of prompts.parquet
    check    says whether an answer is right; None: there is no telling, and no greedy answer
    t        the iteration that this policy samples for next
    """
    by_id = {row["id"]: row for row in prompts}
    prompt_ids = {i: row["prompt_ids"] for i, row in by_id.items()}
    decodings = ("sampled",) if check is None else ("greedy", "sampled")
    rows: list[dict[str, Any]] = []
    with progress(len(decodings) * len(prompts), label, "answer") as bar:
        for decoding in decodings:
            for ids in batches(prompt_ids, how.batch_size):
                numbers = (
                    uniforms(seed, t, ids, how.max_new_tokens) if decoding == "sampled" else None
                )
                responses = respond(policy, [prompt_ids[i] for i in ids], numbers, how)
                for i, response_ids in zip(ids, responses, strict=True):
                    row = response_row(policy, i, response_ids) | {"decoding": decoding}
                    if check is not None:
                        stopped = row["finish_reason"] == "stop"
                        row["correct"] = stopped and check(by_id[i]["prompt"], row["response"])
                    rows.append(row)
                bar.update(len(ids))
    write_rows(out, rows, ANSWERS)
