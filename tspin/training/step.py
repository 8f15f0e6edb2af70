"""One optimiser step: the gradient of a batch's mean loss, then the update.

The gradient is accumulated over micro-batches and divided by the examples of the whole batch, so
that the cut never changes it: what an objective compares with in the whole batch is taken before.
Where a micro-batch does not fit into memory, the cut is halved and the gradient taken again. The
objective is called in one place, `_losses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tspin.data.triplets import Triplet, num_tokens
from tspin.distributed.world import World
from tspin.objectives import Logps, Metrics, Role, mean_metrics
from tspin.policy.out_of_memory import until_it_fits
from tspin.training.cut import Cut
from tspin.training.optimizer import Optimizer
from tspin.training.recipe import Recipe, gentler
from tspin.training.strategy import Strategy, deal

# Of a log-prob's gradient. An optimiser divides by 1e-8 at least: less moves no weight. On its way
# through the layers it would become numbers below 1e-38, with which a CPU takes up to eighty times
# as long (benchmarks/far_apart.py): from 70 nats on, where pairs of long responses soon are.
NEGLIGIBLE = 1e-20
NUM_IDS = 3  # prompts of a batch that an error lists
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
    grad_norm = strategy.clip(recipe.optim.max_grad_norm)
    means = mean_metrics({"loss": losses, **metrics} for losses, metrics in parts)
    loss = means["loss"]
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FloatingPointError(
            f"diverged at {where}: the loss is {loss:g}, the norm of its gradient {grad_norm:g}; "
            f"{gentler(recipe.loss, recipe.optim, recipe.t)}. Nothing of this step was applied; "
            f"its prompts are {_few([t.id for t in batch])}"
        )
    optimizer.step()
    metrics = {
        **means,
        "grad_norm": grad_norm,
        "num_examples": len(batch),
        "num_tokens": num_tokens(batch, recipe.loss.roles),
    }
    return metrics, cut


def _few(ids: Sequence[str]) -> str:
    more = len(ids) - NUM_IDS
    return ", ".join([*ids[:NUM_IDS], *([f"{more} more"] if more > 0 else [])])


def accumulate(
    strategy: Strategy, batch: Sequence[Triplet], recipe: Recipe, cut: Cut
) -> list[Part]:
    """Adds the gradient of the batch's mean loss. -> losses and metrics of all, part by part"""
    roles, by_number = recipe.loss.roles, dict[int, list[Part]]()
    micro_batches = cut.micro_batches(batch, roles)
    statistics = _statistics(strategy, micro_batches, recipe)
    for micro_batch in deal(micro_batches, strategy.world):
        parts: list[Part] = []
        strategy.backward(micro_batch, roles, partial(_losses, recipe, statistics, parts))
        if micro_batch.number is not None:
            by_number[micro_batch.number] = parts
    by_number = _gather(by_number, strategy.world)
    return [part for number in sorted(by_number) for part in by_number[number]]


def _statistics(
    strategy: Strategy, micro_batches: Sequence[Sequence[Triplet]], recipe: Recipe
) -> Mapping[str, Tensor] | None:
    """What the objective compares with in the whole batch, by one more forward pass; None: nothing.

    In float64, since the order of the triplets is the cut's.
    """
    if not recipe.loss.needs_batch:
        return None
    triplets = [triplet for micro_batch in micro_batches for triplet in micro_batch]
    logps = strategy.logps(micro_batches, recipe.loss.roles)
    logps = logps.with_values({role: logps[role].double() for role in logps.present()})
    logps = replace(logps, lengths=_lengths(logps, triplets))
    return recipe.loss.statistics(logps, recipe.reference_logps(triplets, logps))


def _losses(
    recipe: Recipe,
    statistics: Mapping[str, Tensor] | None,
    parts: list[Part],
    triplets: Sequence[Triplet],
    logps: Logps,
) -> Tensor:
    """The LossFunction of a step: losses (triplets,), kept in `parts` beside their metrics."""
    for role in logps.present():
        if logps[role].requires_grad:
            logps[role].register_hook(_without_negligible)
    logps = replace(logps, lengths=_lengths(logps, triplets), statistics=statistics)
    losses, metrics = recipe.loss(logps, recipe.reference_logps(triplets, logps))
    losses = recipe.weighted(triplets, losses)
    per_token = logps.detached().per_token()
    metrics |= {f"logps_per_token/{role}": per_token[role] for role in per_token.present()}
    parts.append((losses.detach(), metrics))
    return losses


def _without_negligible(gradient: Tensor | None) -> Tensor | None:
    """None where nothing of the loss depends on a role."""
    if gradient is None:
        return None
    return gradient.masked_fill(gradient.abs() < NEGLIGIBLE, 0.0)


def _lengths(logps: Logps, triplets: Sequence[Triplet]) -> dict[Role, Tensor]:
    """Tokens of the responses by role, each (triplets,), beside their log-probs."""
    return {
        role: torch.tensor([len(triplet.responses[role]) for triplet in triplets]).to(
            logps[role].device, non_blocking=True
        )
        for role in logps.present()
    }


def _gather(mine: dict[int, list[Part]], world: World) -> dict[int, list[Part]]:
    """By micro-batch, those of all processes."""
    if world.size == 1:
        return mine
    of_all = world.gather(_on_cpu(mine))
    return {number: parts for each in of_all for number, parts in each.items()}


def _on_cpu(by_number: dict[int, list[Part]]) -> dict[int, list[Part]]:
    """The same in float64 in the host's memory, in one transfer: each waits for the device."""
    tensors = [
        tensor.double()
        for parts in by_number.values()
        for losses, metrics in parts
        for tensor in (losses, *metrics.values())
    ]
    if not tensors:
        return by_number
    sizes = [len(tensor) for tensor in tensors]
    values = iter(torch.cat(tensors).cpu().split(sizes))
    return {
        number: [(next(values), {key: next(values) for key in metrics}) for _, metrics in parts]
        for number, parts in by_number.items()
    }
