"""What is saved of a training: after it the next step has the same bits."""

from dataclasses import replace

import pytest
import torch
from support.tiny import compose, random_policy, random_triplets

from tspin.objectives import SFT
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.recipe import Recipe
from tspin.training.step import gradient_step
from tspin.training.strategy import Strategy
from tspin.training.train_state import load_state, save_state

RUN = compose()


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
def test_training_state_round_trip(name, tmp_path):
    """Saved after k steps and loaded into new objects: the next step has the same bits."""
    optim = replace(RUN.optim, name=name)
    recipe = Recipe(loss=SFT(), optim=optim, compute=RUN.compute, seed=0, t=1)
    batch = random_triplets(4)

    def step(policy, optimizer):
        optimizer.param_groups[0]["lr"] = 1e-3
        strategy, cut = Strategy(policy), Cut.of(RUN.compute)
        gradient_step(strategy, optimizer, batch, recipe, cut, where="test")

    policy = random_policy(dtype=torch.float32)
    optimizer = build_optimizer(policy, optim)
    step(policy, optimizer)
    save_state(tmp_path / "state.safetensors", policy, optimizer, 1)
    other = random_policy(dtype=torch.float32, seed=9)
    fresh = build_optimizer(other, optim)
    assert load_state(tmp_path / "state.safetensors", other, fresh) == 1
    step(policy, optimizer)
    step(other, fresh)
    for a, b in zip(policy.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
