"""Stage: sample one response per prompt from a policy, into a folder of parquet parts.

Parts are a function of the prompts and are sampled one by one: a restart gives the same samples
bit for bit, and so do several processes, which divide the parts. Another batch size or engine
gives the same samples too, up to rounding where a number falls on the border between two tokens
(never seen in float64).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tspin.artifacts import RESPONSES, Responses
from tspin.config import DecodingConfig
from tspin.console import progress
from tspin.distributed import ALONE, World
from tspin.files import write_json, write_rows
from tspin.model import Policy
from tspin.sampling import Question, parts, respond, response_row, uniforms


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
    world: World = ALONE,
) -> None:
    """Fills `out` with one response per prompt (id -> prompt ids); goes on where it stopped.

    facts  what the samples are made from; written into the manifest with the counts.
    """
    started = time.monotonic()
    cut = parts(prompts, how.batch_size)
    missing = world.main(lambda: [i for i in range(len(cut)) if not out.part(i).exists()])
    done = len(prompts) - sum(len(cut[i]) for i in missing)
    with progress(len(prompts), label, "prompt", show=world.is_main) as bar:
        bar.update(done)
        for index in world.share(missing, passed=lambda i: bar.update(len(cut[i]))):
            questions = []
            for i in cut[index]:
                numbers = uniforms(seed, t, i, how.max_new_tokens) if how.sample else None
                questions.append(Question(prompts[i], numbers, how.temperature))
            responses = respond(policy, questions, how, done=bar.update)
            rows = [response_row(policy, i, r) for i, r in zip(cut[index], responses, strict=True)]
            write_rows(out.part(index), rows, RESPONSES)
        world.barrier()
    manifest = {
        **facts,
        "num_parts": len(cut),
        "num_prompts": len(prompts),
        "seconds": round(time.monotonic() - started, 3),
    }
    world.main(lambda: write_json(out.manifest, manifest))
