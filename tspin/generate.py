"""Stage: sample one response per prompt from a policy, into a folder of parquet parts.

Batches are a function of the prompts: a restart gives the same samples bit for bit. Another batch
size gives the same samples too, up to rounding where a number falls on the border between two
tokens (never seen in float64).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tspin.artifacts import RESPONSES, Responses
from tspin.config import DecodingConfig
from tspin.console import progress
from tspin.files import write_json, write_rows
from tspin.model import Policy
from tspin.sampling import batches, respond, response_row, uniforms

MAX_PARTS = 50  # a restart repeats at most one of them


def generate(
    policy: Policy,
    prompts: dict[str, Sequence[int]],
    out: Responses,
    *,
    how: DecodingConfig,
    seed: int,
    t: int,
    label: str,
    facts: dict[str, Any],
) -> None:
    """Fills `out` with one response per prompt (id -> prompt ids); goes on where it stopped.

    facts  what the samples are made from; written into the manifest with the counts.
    """
    started = time.monotonic()
    all_batches = batches(prompts, how.batch_size)
    per_part = -(-len(all_batches) // MAX_PARTS)
    parts = [all_batches[i : i + per_part] for i in range(0, len(all_batches), per_part)]
    with progress(len(prompts), label, "prompt") as bar:
        for index, part in enumerate(parts):
            if not out.part(index).exists():
                rows = []
                for ids in part:
                    numbers = uniforms(seed, t, ids, how.max_new_tokens) if how.sample else None
                    responses = respond(policy, [prompts[i] for i in ids], numbers, how)
                    rows += [
                        response_row(policy, i, r) for i, r in zip(ids, responses, strict=True)
                    ]
                    bar.update(len(ids))
                write_rows(out.part(index), rows, RESPONSES)
            else:
                bar.update(sum(len(ids) for ids in part))
    write_json(
        out.manifest,
        {
            **facts,
            "num_parts": len(parts),
            "num_prompts": len(prompts),
            "seconds": round(time.monotonic() - started, 3),
        },
    )
