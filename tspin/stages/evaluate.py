"""Stage: a policy answers held-out prompts: greedily where a program can check, and by sampling.

Samples are drawn with the numbers of the next iteration, so that policies compare on the same
prompts and the same random numbers. What the answers are worth is for runs.evaluation to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tspin.config.run import DataConfig, DecodingConfig
from tspin.data.annotated import Canonical, Check
from tspin.distributed.world import ALONE, World
from tspin.runs.artifacts import ANSWERS, VERDICTS
from tspin.sampling.requests import Draws, Engine, Request, parts, response_row
from tspin.tools.parquet import write_rows
from tspin.tools.terminal import progress

if TYPE_CHECKING:
    from tspin.verifiable.task import Verdict


@dataclass(frozen=True)
class Grader:
    """A program that knows right answers.

    check      says whether an answer is right
    canonical  spells right answers that say the same alike; None: as they are
    judge      says which of a prompt's instructions an answer follows, where there are several
    """

    check: Check
    canonical: Canonical | None = None
    judge: Callable[[str, str], Verdict] | None = None

    @property
    def schema(self) -> pa.Schema:
        """Of the answers with their grades."""
        return ANSWERS if self.judge is None else VERDICTS

    def grade(self, asked: Mapping[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        """Of a row of responses, to a row of prompts. One that was cut is wrong, whatever it
        begins with.
        """
        prompt, whole = asked["prompt"], row["finish_reason"] == "stop"
        right = whole and bool(self.check(asked, row["response"]))
        canonical = self.canonical or (lambda prompt, response: response)
        spelled = canonical(prompt, row["response"])
        grades = {"correct": right, "canonical": spelled if right else None}
        if self.judge is None:
            return grades
        verdict = self.judge(prompt, row["response"])
        return grades | {
            "kind": verdict.kind,
            "families": list(verdict.strict),
            "strict": [whole and follows for follows in verdict.strict.values()],
            "loose": [whole and follows for follows in verdict.loose.values()],
        }


def evaluate(
    engine: Engine,
    prompts: Sequence[dict[str, Any]],
    out: Path,
    draws: Draws,
    grader: Grader | None,
    *,
    data: DataConfig,
    label: str,
    world: World = ALONE,
) -> None:
    """Leaves the answers, one parquet row per prompt, decoding and draw (artifacts.ANSWERS, or
    VERDICTS where the grader judges instructions).

    prompts  held-out rows of prompts.parquet
    draws    of the iteration that this policy samples for next
    grader   None: right answers are not known, and prompts are answered by sampling alone
    """
    how, by_id = draws.decoding, {row["id"]: row for row in prompts}
    attempts = _attempts(data, how, greedy=grader is not None)
    ids_of = parts(
        {i: row["prompt_ids"] for i, row in by_id.items()}, how.batch_size, draws=len(attempts)
    )

    def keys(number: int) -> list[tuple[str, str, int, float]]:
        return [(i, *attempt) for attempt in attempts for i in ids_of[number]]

    def requests(number: int) -> list[Request]:
        return [
            Request(
                by_id[i]["prompt_ids"],
                None if decoding == "greedy" else draws.seed_of(i, draw=draw),
                temperature,
            )
            for i, decoding, draw, temperature in keys(number)
        ]

    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    with progress(len(attempts) * len(by_id), label, "answer", show=world.is_main) as bar:
        mine = world.share(
            range(len(ids_of)),
            passed=lambda number: bar.update(len(attempts) * len(ids_of[number])),
            by_main=engine.central,
        )
        batches = ((number, requests(number)) for number in mine)
        for number, responses in engine.respond(batches, how, done=bar.update):
            for (i, decoding, draw, _), ids in zip(keys(number), responses, strict=True):
                row = response_row(engine.renderer, i, ids) | {"decoding": decoding, "draw": draw}
                if grader is not None:
                    row |= grader.grade(by_id[i], row)
                rows[i, decoding, draw] = row
        rows = {key: row for part in world.gather(rows) for key, row in part.items()}
    in_order = [rows[i, decoding, draw] for decoding, draw, _ in attempts for i in by_id]
    world.main(write_rows, out, in_order, ANSWERS if grader is None else grader.schema)


def _attempts(
    data: DataConfig, how: DecodingConfig, *, greedy: bool
) -> list[tuple[str, int, float]]:
    """How every prompt is answered: decoding, draw, temperature.

    Sampling at a lower temperature alone makes answers right more often, whatever was trained: the
    control is drawn with the numbers of the first sample.
    """
    warm = how.temperature if data.eval_temperature is None else data.eval_temperature
    attempts = [("sampled", draw, warm) for draw in range(data.eval_draws)]
    if greedy:
        attempts = [("greedy", 0, warm), *attempts]
        if data.eval_cool is not None:
            attempts.append(("cool", 0, data.eval_cool))
    return attempts
