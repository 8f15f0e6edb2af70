"""Stage: sample one response per prompt from a policy, into a folder of parquet parts.

Parts are a function of the prompts and are sampled one by one: a restart gives the same samples
bit for bit, and so do several processes, which divide the parts. Another batch size, or
transformers as the engine, gives the same samples too, up to rounding where a number falls on the
border between two tokens (never seen in float64); vLLM and an endpoint draw other ones from the
same distribution.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tspin.config.run import DecodingConfig
from tspin.distributed.world import ALONE, World
from tspin.runs.artifacts import RESPONSES, Responses
from tspin.sampling.requests import Question, Source, luck, parts, response_row
from tspin.tools import signals
from tspin.tools.files import write_json
from tspin.tools.parquet import write_rows
from tspin.tools.terminal import progress


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
    world: World = ALONE,
) -> None:
    """Fills `out` with one response per prompt (id -> prompt ids); goes on where it stopped.

    facts  what the samples are made from; written into the manifest with the counts.
    """
    started = time.monotonic()
    cut = parts(prompts, how.batch_size)
    missing = world.main(lambda: [i for i in range(len(cut)) if not out.part(i).exists()])
    there = len(prompts) - sum(len(cut[i]) for i in missing)

    def questions(number: int) -> list[Question]:
        return [
            Question(prompts[i], luck(seed, t, i) if how.sample else None, how.temperature)
            for i in cut[number]
        ]

    with (
        progress(len(prompts), label, "prompt", initial=there, show=world.is_main) as bar,
        signals.held(),
    ):
        mine = world.share(
            missing, passed=lambda i: bar.update(len(cut[i])), by_main=source.central
        )
        batches = ((number, questions(number)) for number in mine)
        for number, responses in source.answers(batches, how, done=bar.update):
            answered = zip(cut[number], responses, strict=True)
            rows = [response_row(source.renderer, i, response) for i, response in answered]
            write_rows(out.part(number), rows, RESPONSES)
            signals.stop_if_requested()
        world.barrier()
    manifest = {
        **facts,
        **source.facts,
        "num_parts": len(cut),
        "num_prompts": len(prompts),
        "seconds": round(time.monotonic() - started, 3),
    }
    world.main(lambda: write_json(out.manifest, manifest))
