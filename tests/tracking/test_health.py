"""Warnings: said when they should be, and only then."""

import logging

import pytest
from support.tiny import compose

from tspin.selfplay import algorithm
from tspin.tracking import health


def test_collapse_of_the_annotated_log_likelihood():
    """The paper's own run falls from about -500 to about -900."""
    assert "from -500.0 to -900.0" in health.collapse(-500.0, -900.0)
    assert health.collapse(-500.0, -700.0) is None
    assert health.collapse(-500.0, -300.0) is None


def test_saturated_margins_are_read_off_the_last_tenth():
    fresh, saturated = {"weights/current": 0.5}, {"weights/current": 0.001}
    assert "saturated" in health.saturation([fresh] * 90 + [saturated] * 10)
    assert health.saturation([saturated] * 90 + [fresh] * 10) is None
    assert health.saturation([{"loss": 1.0}]) is None  # sft has no margins


def test_most_samples_cut_at_the_length_limit():
    assert "67%" in health.cut(["length", "length", "stop"])
    assert health.cut(["length", "stop"]) is None


def test_samples_that_equal_the_annotated_response():
    assert "6 of 10" in health.identical(6, 10)
    assert health.identical(5, 10) is None


@pytest.mark.runs
def test_a_collapsing_run_says_so_once(tmp_path, caplog):
    """Trap 11: without a reference nothing holds log pi(y) up when steps are too large."""
    run = compose(
        "loss=wo_ha", f"runs_dir={tmp_path}", "data.size=48", "data.heldout=4", "optim.lr=1e-2",
        "selfplay.iterations=2", "optim.epochs=1", "optim.max_grad_norm=null",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="tspin"):
        rows = algorithm.run(run, command=["test"])
    assert rows[-1]["logps_annotated"] < -20 and rows[-2]["logps_annotated"] < -20
    assert caplog.text.count("log pi(y) has fallen") == 1
