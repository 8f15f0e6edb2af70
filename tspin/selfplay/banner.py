"""What a run is, said as it begins: its model, objective and steps at once, its rows when they are
encoded. No torch, which takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from tspin.config import auto
from tspin.config.objective import KEYS_OF_COEF
from tspin.config.run import Run
from tspin.data import shift
from tspin.data.annotated import BUILT_IN
from tspin.planning import shapes
from tspin.runs.artifacts import RunDir
from tspin.runs.start import first_iteration


def is_plain(run: Run) -> bool:
    """Whether the run is new, and its model and data are files here: hardly anything refuses it."""
    model = shapes.folder_of(run.model) / "config.json"
    data = run.data.path in BUILT_IN or Path(run.data.path).expanduser().is_file()
    return data and model.exists() and not RunDir(run.folder).config.exists()


def beginning(run: Run) -> str:
    """Four lines of what the configuration alone says."""
    optim = run.optim
    played = run.selfplay.iterations - first_iteration(run)
    lines = {
        "model": f"{run.model.path} ({_size(run)})",
        "objective": _objective(run),
        "training": f"{_count(played, 'iteration')} of {_count(optim.epochs, 'epoch')}, "
        f"batches of {optim.batch_size}",
        "folder": str(run.folder),
    }
    return _listed(lines)


def rows(
    run: Run,
    facts: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Any]],
    settled: Mapping[str, Mapping[str, Any]],
    arithmetic: Mapping[str, Any],
) -> str:
    """Two to five lines: where it is computed, what is trained on, what `auto` came to there.

    facts       data.json
    prompts     rows of prompts.parquet, with split, prompt_ids and annotated_ids; part, where they
                have a time
    settled     settled.json
    arithmetic  device, dtype and weights, as provenance.json has them
    """
    tokens = sum(
        len(row["prompt_ids"]) + len(row["annotated_ids"])
        for row in prompts
        if row["split"] == "train"
    )
    sizes = num_rows(run, prompts)
    steps = num_steps(run, sizes)
    unknown = run.curriculum.prompts != "all" and run.curriculum.share is None
    at_most = "at most " if unknown else ""
    chosen = f" ({auto.HELDOUT}={auto.AUTO})" if auto.HELDOUT in settled else ""
    lines = {
        "arithmetic": f"{arithmetic['dtype']} on {arithmetic['device']}, weights in "
        f"{arithmetic['weights']} ({run.optim.precision})",
        "rows": f"{facts['num_train']} to train on ({tokens} tokens of x and y), "
        f"{facts['num_heldout']} held out{chosen}; {at_most}{_count(steps, 'step')} in all",
    }
    if run.data.shift.timed:
        by = run.data.shift.column or "order"
        count = len({row["part"] for row in prompts})
        lines["shift"] = f"{count} parts by {by}; iterations train on {_counts(sizes)} rows"
    cut = []
    if number := facts.get("num_prompts_cut"):
        key, value = run.prompt_limit
        cut.append(f"{_count(number, 'prompt')} to {run.max_prompt_length} tokens ({key}={value})")
    if number := facts.get("num_responses_cut"):
        cut.append(
            f"{_count(number, 'response')}, rows ending at model.max_length={run.model.max_length}"
        )
    if cut:
        lines["cut"] = "; ".join(cut)
    if alpha := settled.get(auto.ALPHA):
        lines["alpha"] = (
            f"{alpha['value']:g} ({auto.ALPHA}={auto.AUTO}: {alpha['mean_tokens']:.1f} tokens a "
            f"response, {auto.PAPER_ALPHA:g} would be for {auto.PAPER_TOKENS})"
        )
    return _listed(lines)


def num_rows(run: Run, prompts: Sequence[Mapping[str, Any]]) -> list[int]:
    """Training rows of each iteration; data.mix_last_two doubles those of iterations after 0, a
    curriculum's share leaves some out. Without a share a curriculum may leave out more."""
    train = [row for row in prompts if row["split"] == "train"]
    sizes = []
    for t in range(first_iteration(run), run.selfplay.iterations):
        how = run.curriculum_at(t)
        size = len(shift.present(train, run.data.shift.at(t), run.seed))
        if how is not None:
            size = how.num_chosen(size) or size
        sizes.append(size * (2 if run.samples and run.data.mix_last_two and t > 0 else 1))
    return sizes


def num_steps(run: Run, sizes: Sequence[int]) -> int:
    """Optimiser steps of all iterations, given their training rows."""
    return sum(run.optim.epochs * ceil(size / run.optim.batch_size) for size in sizes)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _size(run: Run) -> str:
    try:
        number = shapes.find(run.model).parameters
    except (ValueError, LookupError, TypeError):  # another architecture, not here yet, or damaged
        return "size not known yet"
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.1f}{name} parameters"
    return f"{number} parameters"


def _objective(run: Run) -> str:
    coefficients = [f"{KEYS_OF_COEF.get(k, k)}={v}" for k, v in run.loss.coefficients.items()]
    anchor = run.anchor
    anchors = {"nll": anchor.nll, "hinge": anchor.hinge, "cap": anchor.cap}
    coefficients += [f"anchor.{name}={value}" for name, value in anchors.items() if value]
    coefficients += ["anchor.average=true"] if anchor.average else []
    how = run.curriculum
    if how.prompts != "all":
        coefficients.append(f"curriculum={how.prompts}")
        values = {key: value for key, value in vars(how).items() if key != "prompts"}
        coefficients += [f"curriculum.{k}={v}" for k, v in values.items() if v is not None]
    return " ".join([run.loss.label, *coefficients])


def _counts(numbers: Sequence[int]) -> str:
    """256, 512, ..., 1280: of many numbers the ends."""
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def _listed(lines: Mapping[str, str]) -> str:
    return "\n".join(f"{name + ':':<12}{text}" for name, text in lines.items())
