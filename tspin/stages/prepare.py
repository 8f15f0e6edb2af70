"""Stage: annotated pairs as the ids every later stage conditions on, encoded once per run.

Leaves prompts.parquet (train and held-out prompts) and data.json (digest and counts).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from tspin.config.run import Run
from tspin.data import annotated
from tspin.data.tokens import Renderer
from tspin.runs.artifacts import PROMPTS, RunDir
from tspin.tools.files import write_json
from tspin.tools.parquet import write_rows

log = logging.getLogger("tspin")


def prepare(run: Run, folder: RunDir, renderer: Renderer) -> None:
    """Reads, splits, encodes and truncates.

    A prompt keeps its end, a response its start. A pair whose annotated response holds no token
    is dropped and counted; so are pairs that data.skip_bad_rows leaves out.
    """
    source = annotated.load(run.data)
    num = {"train": 0, "heldout": 0}
    counts = {
        "num_skipped": source.num_skipped,
        "num_dropped": 0,
        "num_prompts_cut": 0,
        "num_responses_cut": 0,
    }

    def rows() -> Iterator[dict[str, Any]]:
        for split, pairs in (("train", source.train), ("heldout", source.heldout)):
            for pair in pairs:
                whole = renderer.prompt_ids(pair.prompt, pair.system)
                prompt_ids = renderer.cut_prompt(whole, max_length=run.max_prompt_length)
                most = run.model.max_length - len(prompt_ids)
                response_ids = renderer.response_ids(pair.annotated)
                if not response_ids:
                    counts["num_dropped"] += 1
                    continue
                counts["num_prompts_cut"] += len(prompt_ids) < len(whole)
                counts["num_responses_cut"] += len(response_ids) > most
                num[split] += 1
                yield {
                    "id": pair.id,
                    "split": split,
                    "system": pair.system,
                    "history": pair.history or None,
                    "prompt": pair.prompt,
                    "annotated": pair.annotated,
                    "prompt_ids": prompt_ids,
                    "annotated_ids": response_ids[:most],
                }
        if not num["train"]:
            raise ValueError(f"{run.data.path}: no pair is left to train on ({counts})")

    write_rows(folder.prompts, rows(), PROMPTS)
    if counts["num_skipped"] or counts["num_dropped"]:
        log.warning(
            "%d rows skipped and %d dropped for having no response token: %s",
            counts["num_skipped"],
            counts["num_dropped"],
            "; ".join(source.reasons) or "-",
        )
    facts = {"digest": source.digest, **counts, "reasons": list(source.reasons)}
    if source.num_undesirable:  # else no part of it: older runs have none, and keys are made of it
        facts["num_undesirable"] = source.num_undesirable
    write_json(folder.data, facts | {f"num_{split}": n for split, n in num.items()})
