"""The optimisers: what a first step and a small learning rate do to a weight."""

import copy

import torch
from support.tiny import compose, random_policy

from tspin.training.optimizer import build_optimizer

OPTIM = compose().optim


def test_the_first_rmsprop_step_is_ten_times_the_learning_rate():
    """No bias correction: g / sqrt(0.01 g^2) = 10 (trap 8), hence the warm-up."""
    policy = random_policy()
    optimizer = build_optimizer(policy, OPTIM)
    (group,) = optimizer.param_groups
    assert (group["alpha"], group["momentum"], group["weight_decay"]) == (0.99, 0.0, 0.0)
    group["lr"] = 1e-3
    before = copy.deepcopy(policy.model.state_dict())
    for p in policy.model.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    moved = policy.model.state_dict()["model.norm.weight"] - before["model.norm.weight"]
    torch.testing.assert_close(moved, torch.full_like(moved, -1e-2), rtol=1e-5, atol=0)


def test_a_learning_rate_of_5e7_moves_float32_weights_and_would_not_move_bfloat16():
    """Trap 7: weights of 0.02 have a bfloat16 rounding step of 1e-4."""
    weight = torch.full((64,), 0.02)
    for dtype, moves in ((torch.float32, True), (torch.bfloat16, False)):
        parameter = torch.nn.Parameter(weight.to(dtype))
        optimizer = torch.optim.RMSprop([parameter], lr=5e-7)
        before = parameter.detach().clone()
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert bool((parameter != before).all()) == moves
        assert bool((parameter != before).any()) == moves
