"""One optimiser step: how often it waits for the device, and what processes exchange of it."""

from dataclasses import replace

import pytest
import torch
from support.tiny import LOSSES, compose, random_policy, random_triplets
from support.waits import Waits

from tspin.training import step
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.parallel import Strategy
from tspin.training.recipe import Recipe

CFG = compose("optim.max_grad_norm=1.0")


def recipe_of(loss, triplets):
    """With reference log-probs that are all -3."""
    keys = [(t.id, t.source, role) for t in triplets for role in loss.roles]
    reference = dict.fromkeys(keys, -3.0) if loss.needs_reference else None
    return Recipe(loss=loss, reference=reference, optim=CFG.optim, compute=CFG.compute, seed=0, t=1)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_step_waits_twice_however_it_is_cut(loss, micro_batch):
    """For the norm of the gradient, and for the means of loss and metrics together."""
    triplets, policy = random_triplets(4), random_policy()
    assert policy.packed is not None  # compared once a model, which waits
    recipe = recipe_of(loss, triplets)
    optimizer, strategy = build_optimizer(policy, CFG.optim), Strategy(policy)
    with Waits() as waits:
        step.gradient_step(
            strategy, optimizer, triplets, recipe, Cut(micro_batch, None), where="step 0"
        )
    assert waits.calls == {"__float__": 1, "tolist": 1}


def test_what_processes_exchange_is_the_same_numbers_in_one_transfer():
    triplets, policy = random_triplets(5), random_policy(dtype=torch.float32)
    recipe = recipe_of(LOSSES["spin"], triplets)
    parts = step.accumulate(Strategy(policy), triplets, recipe, Cut(2, None))
    by_number = {4: parts[:2], 9: parts[2:]}
    with Waits() as waits:
        on_cpu = step._on_cpu(by_number)
    assert waits.calls == {"cpu": 1}
    assert step._on_cpu({}) == {}
    for number, mine in by_number.items():
        for (losses, metrics), (same_losses, same_metrics) in zip(
            mine, on_cpu[number], strict=True
        ):
            assert torch.equal(losses.double(), same_losses)
            assert [*metrics] == [*same_metrics]
            assert all(torch.equal(metrics[k].double(), same_metrics[k]) for k in metrics)


def test_a_step_that_is_not_finite_names_its_prompts():
    triplets, policy = random_triplets(2), random_policy()
    recipe = recipe_of(LOSSES["tspin"], triplets)
    recipe = replace(recipe, loss=lambda logps, reference: (logps.annotated * torch.nan, {}))
    recipe.loss.roles, recipe.loss.reference_roles = LOSSES["tspin"].roles, ()
    optimizer = build_optimizer(policy, CFG.optim)
    with pytest.raises(FloatingPointError, match="step 3: loss nan .* prompts 0, 1. .* nothing"):
        step.gradient_step(
            Strategy(policy), optimizer, triplets, recipe, Cut(2, None), where="step 3"
        )
