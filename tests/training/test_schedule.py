"""The learning rate of a step."""

import math
from dataclasses import replace

import pytest
import torch
from support.tiny import compose
from transformers import get_scheduler

from tspin.training.schedule import lr_factor

OPTIM = compose().optim


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3])
def test_the_decay_is_that_of_transformers_and_warm_up_one_step_ahead(schedule, warmup):
    """transformers begins with a step at learning rate 0, which moves nothing.

    Ours begins at 1 / warm-up steps, so that it is at the peak one step earlier. From its second
    step at the peak on, theirs is the same.
    """
    num_steps, num_warmup = 40, round(40 * warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(schedule, optimizer, num_warmup, num_steps)
    theirs = []
    for _ in range(num_steps):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    optim = replace(OPTIM, warmup=warmup, schedule=schedule)
    ours = [lr_factor(step, num_steps, optim) for step in range(num_steps)]
    assert ours[:num_warmup] == pytest.approx(theirs[1 : num_warmup + 1])
    assert ours[num_warmup:] == pytest.approx(theirs[num_warmup:])


def test_learning_rate_schedule():
    """10 steps, 10% warm-up: peak after 1 step, then a line to 0 behind the last step."""
    optim = replace(OPTIM, warmup=0.1, schedule="linear")
    factors = [lr_factor(step, 10, optim) for step in range(10)]
    assert factors == pytest.approx([1, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9])
    slow = replace(optim, warmup=0.5)
    assert [lr_factor(s, 10, slow) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert lr_factor(9, 10, replace(optim, schedule="constant")) == 1
    assert lr_factor(5, 11, replace(optim, warmup=0, schedule="cosine")) == pytest.approx(
        0.5 * (1 + math.cos(math.pi * 5 / 11))
    )
