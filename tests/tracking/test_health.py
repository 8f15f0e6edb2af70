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
    assert "67%" in health.cut({"length": 2, "stop": 1})
    assert health.cut({"length": 1, "stop": 1}) is health.cut({}) is None


@pytest.mark.parametrize("kind", health.IDENTICAL)
def test_responses_that_are_equal_on_most_rows(kind):
    assert "6 of 10" in health.identical(kind, 6, 10)
    assert health.identical(kind, 5, 10) is None


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


# --- all that metrics alone show -----------------------------------------------------------------


def steps(number=10, **values):
    return [dict(values)] * number


def test_a_healthy_run_has_no_alert():
    row = {
        "logps/annotated": -10.0,
        "logps_per_token/synthetic": -1.0,
        "grad_norm": 2.0,
        "weights/current": 0.4,
        "contingency/reward_only": 0.0,
        "contingency/logp_only": 0.0,
    }
    assert health.alerts({0: [row] * 9, 1: [row] * 9}, {0: 20.0, 1: 22.0}, {"stop": 3}) == {}
    assert health.alerts({}) == health.alerts({0: []}) == {}
    assert health.alerts({0: steps(loss=1.0)}) == {}  # sft


def test_every_kind_of_alert_is_found_in_metrics():
    bad = {0: steps(**{"logps/annotated": -10.0, "logps_per_token/synthetic": -2.0,
                       "contingency/reward_only": 0.05, "contingency/logp_only": 0.0}),
           1: steps(**{"logps/annotated": -40.0, "logps_per_token/synthetic": -0.2,
                       "contingency/reward_only": 0.5, "contingency/logp_only": 0.1,
                       "grad_norm": 0.0, "weights/current": 0.0})}  # fmt: skip
    found = health.alerts(bad, {0: 40.0, 1: 10.0}, {"length": 3, "stop": 1})
    assert {*found} == {
        "collapse", "entropy", "lengths", "misaligned", "cut", "gradient", "saturation"
    }  # fmt: skip
    assert "from 2.000 to 0.200 nats a token" in found["entropy"]
    assert "shrunk from 40 to 10 tokens" in found["lengths"]
    assert "60% of the pairs differently, 5% at the start" in found["misaligned"]
    assert "gradient is zero" in found["gradient"]
    # what lies between says nothing: pages hand over the first and the last iteration alone
    healthy = steps(**{"logps/annotated": -1.0, "grad_norm": 1.0, "weights/current": 0.5})
    longer = {0: bad[0], 1: healthy, 2: bad[1], 3: []}
    assert health.alerts(longer, {0: 40.0, 1: 10.0}, {"length": 3, "stop": 1}) == found


def test_lengths_may_grow_too():
    assert "grown from 10 to 30" in health.length(10.0, 30.0)
    assert health.length(10.0, 18.0) is None


def test_one_step_with_a_gradient_is_a_gradient():
    assert health.no_gradient(steps(9, grad_norm=1.0) + steps(1, grad_norm=0.0)) is not None
    assert health.no_gradient(steps(9, grad_norm=0.0) + steps(1, grad_norm=0.1)) is None
