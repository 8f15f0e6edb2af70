"""One optimiser step: the gradient of a batch's mean loss, then the update.

The gradient is accumulated over micro-batches and divided by the examples of the whole batch, so
that the cut never changes it. Where a micro-batch does not fit into memory, the cut is halved and
the gradient taken again. The objective is called in one place, `_losses`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tspin.data.triplets import Triplet, num_tokens
from tspin.distributed.world import World
from tspin.objectives import Logps, Metrics, mean_metrics
from tspin.policy.out_of_memory import until_it_fits
from tspin.training.cut import Cut
from tspin.training.optimizer import Optimizer
from tspin.training.parallel import Strategy, deal
from tspin.training.recipe import Recipe

Part = tuple[Tensor, Metrics]  # losses (triplets,) of a part of a micro-batch, and metrics alike


def gradient_step(
    strategy: Strategy,
    optimizer: Optimizer,
    batch: Sequence[Triplet],
    recipe: Recipe,
    cut: Cut,
    *,
    where: str,
) -> tuple[dict[str, float], Cut]:
    """One optimiser step on `batch`. -> metrics; the cut that fits into memory: `cut`, or smaller

    strategy  holds the policy; where processes share the step, all of them call this
    where     what people call the step
    Raises FloatingPointError at a loss or gradient that is not finite, before it is applied.
    """

    def gradient(cut: Cut) -> list[Part]:
        optimizer.zero_grad()  # also of an attempt that did not fit
        return accumulate(strategy, batch, recipe, cut)

    parts, cut = until_it_fits(
        gradient,
        cut,
        lambda cut: cut.halved(batch, recipe.loss.roles),
        where=where,
        same="the gradient is the same",
    )
    loss = float(torch.cat([losses for losses, _ in parts]).double().mean())
    grad_norm = strategy.clip(recipe.optim.max_grad_norm)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FloatingPointError(
            f"diverged at {where}: loss {loss} and gradient norm {grad_norm} must be finite; "
            f"batch of prompts {', '.join(t.id for t in batch)}. Try a smaller optim.lr or "
            "coef.alpha, optim.max_grad_norm=1.0, or compute.dtype=float32; nothing of this step "
            "was applied"
        )
    optimizer.step()
    metrics = {
        "loss": loss,
        **mean_metrics(metrics for _, metrics in parts),
        "grad_norm": grad_norm,
        "num_examples": len(batch),
        "num_tokens": num_tokens(batch, recipe.loss.roles),
    }
    return metrics, cut


def accumulate(
    strategy: Strategy, batch: Sequence[Triplet], recipe: Recipe, cut: Cut
) -> list[Part]:
    """Adds the gradient of the batch's mean loss. -> losses and metrics of all, part by part"""
    roles, by_number = recipe.loss.roles, dict[int, list[Part]]()
    for micro_batch in deal(cut.micro_batches(batch, roles), strategy.world):
        parts: list[Part] = []
        strategy.backward(micro_batch, roles, partial(_losses, recipe, parts))
        if micro_batch.number is not None:
            by_number[micro_batch.number] = parts
    by_number = _gather(by_number, strategy.world)
    return [part for number in sorted(by_number) for part in by_number[number]]


def _losses(recipe: Recipe, parts: list[Part], triplets: Sequence[Triplet], logps: Logps) -> Tensor:
    """The LossFunction of a step: losses (triplets,), kept in `parts` beside their metrics."""
    losses, metrics = recipe.loss(logps, recipe.reference_logps(triplets, logps))
    parts.append((losses.detach(), metrics | _per_token(logps, triplets)))
    return losses


def _per_token(logps: Logps, triplets: Sequence[Triplet]) -> Metrics:
    """log pi(z | x) / number of response tokens, by role, each (triplets,) in nats."""
    metrics = {}
    for role in logps.present():
        lengths = [len(triplet.responses[role]) for triplet in triplets]
        value = logps[role].detach()
        on_device = torch.tensor(lengths).to(value.device, non_blocking=True)
        metrics[f"logps_per_token/{role}"] = value / on_device
    return metrics


def _gather(mine: dict[int, list[Part]], world: World) -> dict[int, list[Part]]:
    """By micro-batch, those of all processes."""
    if world.size == 1:
        return mine
    on_cpu = {
        number: [(losses.cpu(), {k: v.cpu() for k, v in facts.items()}) for losses, facts in parts]
        for number, parts in mine.items()
    }
    return {number: parts for each in world.gather(on_cpu) for number, parts in each.items()}
