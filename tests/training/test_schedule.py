"""The learning rate of a step."""

import math
from dataclasses import replace

import pytest
from support.tiny import compose

from tspin.training.schedule import lr_factor

OPTIM = compose().optim


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
