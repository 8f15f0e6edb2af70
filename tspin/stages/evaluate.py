"""Stage: a policy answers held-out prompts: greedily where a program can check, and by sampling.

Samples are drawn with the numbers of the next iteration, so that policies compare on the same
prompts and the same random numbers. What the answers are worth is `evaluation`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tspin.config.run import DataConfig, DecodingConfig
from tspin.data.annotated import Canonical, Check
from tspin.distributed.world import ALONE, World
from tspin.runs.artifacts import ANSWERS
from tspin.sampling.requests import Engine, Request, parts, response_row, sample_seed
from tspin.tools.parquet import write_rows
from tspin.tools.terminal import progress


def evaluate(
    engine: Engine,
    prompts: Sequence[dict[str, Any]],
    check: Check | None,
    canonical: Canonical | None,
    out: Path,
    *,
    data: DataConfig,
    how: DecodingConfig,
    seed: int,
    t: int,
    label: str,
    world: World = ALONE,
) -> None:
    """Leaves the answers, one parquet row per prompt, decoding and draw (artifacts.ANSWERS).

    prompts    held-out rows of prompts.parquet
    check      says whether an answer is right; None: there is no telling, and samples alone
    canonical  spells right answers that say the same alike; None: as they are
    t          the iteration that this policy samples for next
    """
    by_id = {row["id"]: row for row in prompts}
    tries = _tries(data, how, can_check=check is not None)
    cut = parts(
        {i: row["prompt_ids"] for i, row in by_id.items()}, how.batch_size, draws=len(tries)
    )

    def attempts(ids: Sequence[str]) -> list[tuple[str, str, int, float]]:
        return [(i, *attempt) for attempt in tries for i in ids]

    def requests(ids: Sequence[str]) -> list[Request]:
        return [
            Request(
                by_id[i]["prompt_ids"],
                None if decoding == "greedy" else sample_seed(seed, t, i, draw=draw),
                temperature,
            )
            for i, decoding, draw, temperature in attempts(ids)
        ]

    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    total = len(tries) * len(by_id)
    with progress(total, label, "answer", show=world.is_main) as bar:

        def passed(number: int) -> None:
            bar.update(len(tries) * len(cut[number]))

        mine = world.share(range(len(cut)), passed=passed, by_main=engine.central)
        batches = ((number, requests(cut[number])) for number in mine)
        for number, responses in engine.respond(batches, how, done=bar.update):
            for (i, decoding, draw, _), ids in zip(attempts(cut[number]), responses, strict=True):
                row = response_row(engine.renderer, i, ids) | {"decoding": decoding, "draw": draw}
                if check is not None:
                    row |= _judged(by_id[i]["prompt"], row, check, canonical)
                rows[i, decoding, draw] = row
        rows = {key: row for part in world.gather(rows) for key, row in part.items()}
    in_order = [rows[i, decoding, draw] for decoding, draw, _ in tries for i in by_id]
    world.main(lambda: write_rows(out, in_order, ANSWERS))


def _judged(
    prompt: str, row: dict[str, Any], check: Check, canonical: Canonical | None
) -> dict[str, Any]:
    """An answer that was cut is wrong, whatever it begins with."""
    right = row["finish_reason"] == "stop" and bool(check(prompt, row["response"]))
    spelled = row["response"] if canonical is None else canonical(prompt, row["response"])
    return {"correct": right, "canonical": spelled if right else None}


def _tries(
    data: DataConfig, how: DecodingConfig, *, can_check: bool
) -> list[tuple[str, int, float]]:
    """How every prompt is answered: decoding, draw, temperature.

    Sampling at a lower temperature alone makes answers right more often, whatever was trained: the
    control is drawn with the numbers of the first sample.
    """
    tries = [("sampled", draw, how.temperature) for draw in range(data.eval_draws)]
    if can_check:
        tries = [("greedy", 0, how.temperature), *tries]
        if data.eval_cool is not None:
            tries.append(("cool", 0, data.eval_cool))
    return tries
