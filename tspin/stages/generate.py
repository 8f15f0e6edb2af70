"""Stage: sample one response per prompt from a policy, into a folder of parquet parts.

Parts are a function of the prompts and are sampled one by one: a restart gives the same samples
bit for bit, and so do several processes, which divide the parts. Another batch size, or
transformers as the engine, gives the same samples too, up to rounding where a number falls on the
border between two tokens (never seen in float64); vLLM draws other ones from the same
distribution.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tspin.distributed.world import ALONE, World
from tspin.runs.artifacts import RESPONSES, Responses
from tspin.sampling.requests import Draws, Engine, Request, parts, response_row
from tspin.tools import signals
from tspin.tools.files import write_json
from tspin.tools.parquet import write_rows
from tspin.tools.terminal import progress


def generate(
    engine: Engine,
    prompts: dict[str, Sequence[int]],
    out: Responses,
    draws: Draws,
    *,
    label: str,
    facts: dict[str, Any],
    world: World = ALONE,
) -> None:
    """Fills `out` with one response per prompt (id -> prompt ids); goes on where it stopped.

    facts  what the samples are made from; written into the manifest with the counts.
    """
    started, how = time.monotonic(), draws.decoding
    ids_of = parts(prompts, how.batch_size)
    missing = world.main(lambda: [i for i in range(len(ids_of)) if not out.part(i).exists()])
    num_done = len(prompts) - sum(len(ids_of[i]) for i in missing)

    def requests(number: int) -> list[Request]:
        return [
            Request(prompts[i], draws.seed_of(i) if how.sample else None, how.temperature)
            for i in ids_of[number]
        ]

    with (
        progress(len(prompts), label, "prompt", initial=num_done, show=world.is_main) as bar,
        signals.held(),
    ):
        mine = world.share(
            missing, passed=lambda i: bar.update(len(ids_of[i])), by_main=engine.central
        )
        batches = ((number, requests(number)) for number in mine)
        for number, responses in engine.respond(batches, how, done=bar.update):
            answered = zip(ids_of[number], responses, strict=True)
            rows = [response_row(engine.renderer, i, response) for i, response in answered]
            write_rows(out.part(number), rows, RESPONSES)
            signals.stop_if_requested()
        world.barrier()
    manifest = {
        **facts,
        **engine.facts,
        "num_parts": len(ids_of),
        "num_prompts": len(prompts),
        "seconds": round(time.monotonic() - started, 3),
    }
    world.main(write_json, out.manifest, manifest)
