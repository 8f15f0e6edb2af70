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
    """Two to four lines: where it is computed, what is trained on, what `auto` came to there.

    facts       data.json
    prompts     rows of prompts.parquet, with split, prompt_ids and annotated_ids
    settled     settled.json
    arithmetic  device, dtype and weights, as provenance.json has them
    """
    tokens = sum(
        len(row["prompt_ids"]) + len(row["annotated_ids"])
        for row in prompts
        if row["split"] == "train"
    )
    steps = num_steps(run, facts["num_train"])
    chosen = f" ({auto.HELDOUT}={auto.AUTO})" if auto.HELDOUT in settled else ""
    lines = {
        "arithmetic": f"{arithmetic['dtype']} on {arithmetic['device']}, weights in "
        f"{arithmetic['weights']} ({run.optim.precision})",
        "rows": f"{facts['num_train']} to train on ({tokens} tokens of x and y), "
        f"{facts['num_heldout']} held out{chosen}; {steps} steps in all",
    }
    cut = []
    if number := facts.get("num_prompts_cut"):
        cut.append(f"{number} prompts to {run.max_prompt_length} tokens (model.max_prompt_length)")
    if number := facts.get("num_responses_cut"):
        cut.append(f"{number} responses, rows ending at model.max_length={run.model.max_length}")
    if cut:
        lines["cut"] = "; ".join(cut)
    if alpha := settled.get(auto.ALPHA):
        lines["alpha"] = (
            f"{alpha['value']:g} ({auto.ALPHA}={auto.AUTO}: {alpha['mean_tokens']:.1f} tokens a "
            f"response, {auto.PAPER_ALPHA:g} would be for {auto.PAPER_TOKENS})"
        )
    return _listed(lines)


def num_steps(run: Run, num_train: int) -> int:
    """Optimiser steps of all iterations; data.mix_last_two doubles the pairs of those after 0."""
    sizes = [
        num_train * (2 if run.samples and run.data.mix_last_two and t > 0 else 1)
        for t in range(first_iteration(run), run.selfplay.iterations)
    ]
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
    return " ".join([run.loss.label, *coefficients])


def _listed(lines: Mapping[str, str]) -> str:
    return "\n".join(f"{name + ':':<12}{text}" for name, text in lines.items())
