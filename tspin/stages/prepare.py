"""Stage: annotated pairs as the ids every later stage conditions on, encoded once per run.

Leaves prompts.parquet (train and held-out prompts) and data.json (digest and counts).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from tspin.config.run import Run
from tspin.data import shift
from tspin.data.annotated import Dataset
from tspin.data.cells import BadRow, BadRows
from tspin.data.pairs import Pair
from tspin.data.templates import Conversation
from tspin.data.tokens import Renderer
from tspin.runs.artifacts import PROMPTS, TIMED_PROMPTS, RunDir, settled_day
from tspin.tools.files import digest, write_json
from tspin.tools.parquet import write_rows

log = logging.getLogger("tspin")


def prepare(run: Run, folder: RunDir, renderer: Renderer, source: Dataset) -> None:
    """Encodes and truncates the pairs of run.data, in their two parts.

    A prompt that is too long loses the beginning of the user's words, a response its end. A pair
    whose annotated response holds no token is dropped and counted; so are pairs that
    data.skip_bad_rows leaves out.
    """
    bad_rows = BadRows(run.data.skip_bad_rows, source.num_skipped, source.reasons)
    day = settled_day(run.runs_dir) if renderer.depends_on_day else None
    renderer = renderer.on(day)
    timed = run.data.shift.timed
    num = {"train": 0, "heldout": 0}
    counts = {"num_dropped": 0, "num_prompts_cut": 0, "num_responses_cut": 0}
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "heldout": []}  # id and part

    def rows() -> Iterator[dict[str, Any]]:
        for split, pairs in (("train", source.train), ("heldout", source.heldout)):
            for pair in pairs:
                try:
                    ids = encoded(pair, run, renderer)
                except BadRow as bad:
                    bad_rows.add(f"{run.data.path}, the row with {pair.prompt[:60]!r}", bad)
                    continue
                if not ids.response:
                    counts["num_dropped"] += 1
                    continue
                counts["num_prompts_cut"] += ids.prompt_is_cut
                counts["num_responses_cut"] += ids.response_is_cut
                num[split] += 1
                if pair.part is not None:
                    parts[split].append((pair.id, pair.part))
                yield {
                    "id": pair.id,
                    "split": split,
                    "system": ids.conversation.system,
                    "history": ids.conversation.history or None,
                    "prompt": ids.conversation.prompt,
                    "annotated": pair.annotated.strip(),
                    "prompt_ids": ids.prompt,
                    "annotated_ids": ids.response,
                    "part": pair.part,
                }
        if not num["train"]:
            left_out = {"num_skipped": bad_rows.number, **counts}
            raise ValueError(f"{run.data.path}: no pair is left to train on ({left_out})")
        if timed:
            trained = (part for _, part in parts["train"])
            shift.check(trained, run.data.shift, run.selfplay.iterations)

    write_rows(folder.prompts, rows(), TIMED_PROMPTS if timed else PROMPTS)
    if bad_rows.number or counts["num_dropped"]:
        log.warning(
            "%d rows skipped and %d dropped for having no response token: %s",
            bad_rows.number,
            counts["num_dropped"],
            "; ".join(bad_rows.reasons) or "-",
        )
    facts = {"digest": source.digest, "num_skipped": bad_rows.number, **counts}
    facts["reasons"] = list(bad_rows.reasons)
    facts |= {} if day is None else {"day": day}
    if source.num_undesirable:  # else no part of it: older runs have none, and keys are made of it
        facts["num_undesirable"] = source.num_undesirable
    if timed:
        facts["parts"] = digest(parts)
    write_json(folder.data, facts | {f"num_{split}": n for split, n in num.items()})


class Encoded(NamedTuple):
    """A pair as ids, at most model.max_length of them; `response` may have none.

    conversation  what the template takes of all before the response, uncut
    """

    conversation: Conversation
    prompt: list[int]
    response: list[int]
    prompt_is_cut: bool
    response_is_cut: bool


def encoded(pair: Pair, run: Run, renderer: Renderer) -> Encoded:
    """A pair as a run's policies see it. BadRow for one that cannot be rendered."""
    conversation = renderer.taken(Conversation(pair.prompt, pair.system, pair.history))
    prompt, response, is_cut = _fitted(
        conversation, pair.annotated, renderer, run.max_prompt_length
    )
    most = run.model.max_length - len(prompt)
    return Encoded(conversation, prompt, response[:most], is_cut, len(response) > most)


def _fitted(
    conversation: Conversation, response: str, renderer: Renderer, max_length: int
) -> tuple[list[int], list[int], bool]:
    """Ids of prompt and response, and whether the prompt was cut to max_length ids."""
    prompt_ids, response_ids = renderer.pair_ids(conversation, response)
    if len(prompt_ids) <= max_length:
        return prompt_ids, response_ids, False
    # An answer with a thought of its own has another prompt than `fit` measures.
    shift = len(prompt_ids) - len(renderer.prompt_ids(conversation))
    short = renderer.fit(conversation, max_length=max_length - max(0, shift))
    return *renderer.pair_ids(short, response), True
