"""Stage: sample one response per prompt from a policy, into a folder of parquet parts.

Parts are a function of the prompts and are sampled one by one: a restart gives the same samples
bit for bit, and so would several processes that divide the parts. Another batch size, or
transformers as the engine, gives the same samples too, up to rounding where a number falls on the
border between two tokens (never seen in float64); vLLM and an endpoint draw other ones from the
same distribution.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tspin import preemption
from tspin.artifacts import RESPONSES, Responses
from tspin.config import DecodingConfig
from tspin.console import progress
from tspin.files import write_json, write_rows
from tspin.questions import Question, Source, luck, response_row

MAX_PARTS = 50  # a restart repeats at most one of them
BATCHES_PER_PART = 4  # at least, where there are as many: rows that end early make room for others


def generate(
    source: Source,
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
    parts = _parts(prompts, how.batch_size)
    todo = {
        index: [
            Question(prompts[i], luck(seed, t, i) if how.sample else None, how.temperature)
            for i in ids
        ]
        for index, ids in enumerate(parts)
        if not out.part(index).exists()
    }
    there = len(prompts) - sum(map(len, todo.values()))
    with progress(len(prompts), label, "prompt", initial=there) as bar, preemption.held():
        for index, responses in source.answers(todo, how, done=bar.update):
            answered = zip(parts[index], responses, strict=True)
            rows = [response_row(source.renderer, i, response) for i, response in answered]
            write_rows(out.part(index), rows, RESPONSES)
            preemption.stop_if_asked()
    write_json(
        out.manifest,
        {
            **facts,
            **source.facts,
            "num_parts": len(parts),
            "num_prompts": len(prompts),
            "seconds": round(time.monotonic() - started, 3),
        },
    )


def _parts(prompts: Mapping[str, Sequence[int]], batch_size: int) -> list[list[str]]:
    """The ids of the prompts in parts of alike lengths, which depend on nothing else.

    Longest first: what needs the most memory comes first.
    """
    order = sorted(prompts, key=lambda i: (-len(prompts[i]), i))
    num_parts = min(MAX_PARTS, -(-len(order) // (batch_size * BATCHES_PER_PART)))
    size = -(-len(order) // max(num_parts, 1))
    return [order[i : i + size] for i in range(0, len(order), max(size, 1))]
