"""LoRA on a base in bfloat16, in 8 and in 4 bits: loaded, scored and trained from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_check.models import (
    GB,
    begin_peak,
    peak,
    random_model,
    recipe_of,
    renderer_of,
    triplets,
)
from benchmarks.gpu_check.results import Figure, Outcome, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.config.run import Run
from tspin.data.triplets import Triplet
from tspin.objectives import ROLES
from tspin.policy import adapters, quantization
from tspin.policy.policy import Policy, load
from tspin.stages.score import score
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer, trained
from tspin.training.parallel import Strategy
from tspin.training.schedule import begin_step
from tspin.training.step import gradient_step

CUT = Cut(4, None)
# quantize -> the least correlation of scores with those of the base that is not quantised. Weights
# of NF4 are off by a tenth; scores of random weights have no more than noise to agree on.
LEAST = {None: 0.99, "8bit": 0.95, "4bit": 0.8}


def lora(setting: Setting) -> Iterator[Outcome]:
    shape = setting.small()
    folder = _saved(setting)
    batch = triplets(shape, 8, setting.lengths())
    base = _loaded(folder, setting.run())
    scores = _scores(base, batch)
    del base
    for quantize in LEAST:
        name = "LoRA" if quantize is None else f"LoRA, base in {quantize}"
        run = setting.run("lora=default", "optim.lr=1e-3", f"model.quantize={quantize or 'null'}")
        try:
            adapters.need()
            quantization.check(run.model, run.compute)
        except ValueError as error:
            yield Outcome(name, "skipped", reason=str(error))
            continue
        yield _trained(setting, name, run, folder, batch, scores)


def _saved(setting: Setting) -> Path:
    """A folder with a model of random weights, as a base lies on a disk."""
    folder, shape = setting.folder / "base", setting.small()
    random_model(setting, shape, dtype=torch.bfloat16).save_pretrained(folder)
    renderer_of(shape).tokenizer.save_pretrained(folder)
    return folder


def _loaded(folder: Path, run: Run) -> Policy:
    return load(
        folder,
        template="none",
        compute=run.compute,
        precision=run.optim.precision,
        lora=run.model.lora,
        quantize=run.model.quantize,
    )


def _scores(policy: Policy, batch: list[Triplet]) -> np.ndarray:
    logps = score(policy, CUT.micro_batches(batch, ROLES), ROLES, label="scores").logps
    return np.array([logps[key] for key in sorted(logps)])


def _trained(
    setting: Setting, name: str, run: Run, folder: Path, batch: list[Triplet], scores: np.ndarray
) -> Outcome:
    """Scores of the adapted base before the first step, and what a step does to its weights."""
    begin_peak(setting)
    policy = _loaded(folder, run)
    before = _scores(policy, batch)
    alike = float(np.corrcoef(scores, before)[0, 1])
    optimizer, strategy = build_optimizer(policy, run.optim), Strategy(policy)
    recipe = recipe_of(run, run.loss_at(1))
    weights = {name: weight.detach().clone() for name, weight in trained(policy)}
    begin_step(policy, optimizer, recipe, 0, 1)
    metrics, _ = gradient_step(strategy, optimizer, batch, recipe, CUT, where=name)
    moved = sum(not torch.equal(weights[name], weight) for name, weight in trained(policy))
    after = _scores(policy, batch)
    frozen = [p for p in policy.model.parameters() if not p.requires_grad and p.grad is not None]
    figures: dict[str, Figure] = {
        "correlation with the base": alike,
        "adapters": len(weights),
        "that moved": moved,
        "loss": metrics["loss"],
        "scores moved by": float(np.abs(after - before).max()),
    }
    if not setting.tiny:
        figures["peak GB"] = peak(setting) / GB
    # B is 0 at first: the gradient of A is 0, and the first step moves half of the matrices.
    holds = alike > LEAST[run.model.quantize] and moved >= len(weights) / 2 and not frozen
    return verdict(
        name,
        holds and not np.array_equal(before, after),
        figures,
        rule=f"scores are to correlate above {LEAST[run.model.quantize]}, adapters alone to move",
    )
