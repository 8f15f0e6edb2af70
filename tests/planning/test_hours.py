"""The estimate of a training's time, by hand."""

import pytest
from support.tiny import compose

from tspin.planning import hours, shapes


def test_what_compares_with_the_whole_batch_takes_one_more_forward_pass():
    """Forward 1, backward 2: 4 to 3 of the arithmetic, where nothing else takes time."""
    shape = shapes.KNOWN["mistralai/Mistral-7B-v0.1"]
    machine = hours.Machine(flops=1e12, traffic=1e30, layer=0.0)
    seconds = {
        loss: hours.stages(compose(f"loss={loss}"), 1, shape, machine, "short", y0=False)[-1]
        for loss in ("apo_zero", "kto")
    }
    assert seconds["kto"] / seconds["apo_zero"] == pytest.approx(4 / 3)
