"""The task `verifiable` for lm-eval: its documents, and what an answer to one is worth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from tspin.data.annotated import BUILT_IN_EVAL_SEED
from tspin.verifiable import task


def load(*, split: str, n: int, **_: Any) -> dict[str, Dataset]:
    """The first n held-out prompts of a split with their annotated answers. The other arguments are
    lm-eval's metadata."""
    rows = [{"prompt": p, "annotated": y} for p, y in task.pairs(split, n, BUILT_IN_EVAL_SEED)]
    return {split: Dataset.from_list(rows)}


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Metric -> its value for this document; of strict_KIND that of the prompt's kind alone."""
    verdict = task.verdict(doc["prompt"], results[0])
    strict, loose = list(verdict.strict.values()), list(verdict.loose.values())
    return {
        "prompt_level_strict_acc": all(strict),
        "inst_level_strict_acc": strict,
        "prompt_level_loose_acc": all(loose),
        "inst_level_loose_acc": loose,
        f"strict_{verdict.kind}": all(strict),
    }


def share(values: Sequence[Sequence[bool]]) -> float:
    """Of all instructions of all prompts, how many are followed."""
    every = [*itertools.chain.from_iterable(values)]
    return sum(every) / len(every)
