"""The learning rate of a step."""

import math
from dataclasses import replace

import pytest
import torch
from support.tiny import compose
from transformers import TrainingArguments, get_scheduler

from tspin.training.schedule import lr_factor

OPTIM = compose().optim


def of_transformers(schedule, num_warmup, num_steps):
    """Learning rates of its scheduler at a peak of 1, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(schedule, optimizer, num_warmup, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def factors(optim, num_steps):
    return [lr_factor(step, num_steps, optim) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3])
def test_from_zero_the_schedule_is_that_of_transformers_trainer(schedule, warmup):
    """41 steps: 10% are 4.1, of which the Trainer makes 5."""
    optim = replace(OPTIM, warmup=warmup, schedule=schedule, warmup_from="zero")
    num_warmup = TrainingArguments(warmup_steps=warmup).get_warmup_steps(41)
    assert factors(optim, 41) == pytest.approx(of_transformers(schedule, num_warmup, 41))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3])
def test_from_the_first_step_warm_up_is_one_step_ahead(schedule, warmup):
    """No step is given away: at the peak one step earlier. Behind it both are the same."""
    num_steps, num_warmup = 40, round(40 * warmup)
    ours = factors(replace(OPTIM, warmup=warmup, schedule=schedule, warmup_from="step"), num_steps)
    theirs = of_transformers(schedule, num_warmup, num_steps)
    assert ours[:num_warmup] == pytest.approx(theirs[1 : num_warmup + 1])
    assert ours[num_warmup:] == pytest.approx(theirs[num_warmup:])


def test_learning_rate_schedule():
    """10 steps, 10% warm-up: peak after 1 step, then a line to 0 behind the last step."""
    optim = replace(OPTIM, warmup=0.1, schedule="linear", warmup_from="step")
    assert factors(optim, 10) == pytest.approx([1, *(left / 9 for left in range(9, 0, -1))])
    slow = replace(optim, warmup=0.5)
    assert [lr_factor(s, 10, slow) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert lr_factor(9, 10, replace(optim, schedule="constant")) == 1
    assert lr_factor(5, 11, replace(optim, warmup=0, schedule="cosine")) == pytest.approx(
        0.5 * (1 + math.cos(math.pi * 5 / 11))
    )
