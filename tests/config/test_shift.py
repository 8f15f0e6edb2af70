"""data.shift: which parts an iteration trains on, what is refused, what runs share."""

from dataclasses import replace

import pytest
from support.tiny import compose

from tspin.config.identity import history
from tspin.config.shift import ShiftConfig, Span
from tspin.runs.point import Point

NOTHING = ShiftConfig(column=None, parts=None, window=None, replay=0.0, gamma=1.0, renew=[])
TIMED = replace(NOTHING, parts=5)


@pytest.mark.parametrize(
    ("ways", "t", "span"),
    [
        ({}, 3, Span(0, 3, 0.0, 1.0)),
        ({"window": 2}, 0, Span(0, 0, 0.0, 1.0)),  # it reaches behind the beginning
        ({"window": 2}, 3, Span(2, 3, 0.0, 1.0)),
        ({"window": 2, "replay": 0.25}, 1, Span(0, 1, 0.0, 1.0)),  # nothing is older yet
        ({"window": 2, "replay": 0.25}, 2, Span(1, 2, 0.25, 1.0)),
        ({"gamma": 0.5}, 0, Span(0, 0, 0.0, 1.0)),  # one part: all count alike
        ({"gamma": 0.5}, 1, Span(0, 1, 0.0, 0.5)),
        ({"window": 1, "gamma": 0.5}, 4, Span(4, 4, 0.0, 1.0)),
        ({"window": 1, "replay": 0.5, "gamma": 0.5}, 4, Span(4, 4, 0.5, 0.5)),
    ],
)
def test_the_rows_of_iteration_t(ways, t, span):
    assert replace(TIMED, **ways).at(t) == span


def test_without_a_time_all_rows_are_always_there():
    assert NOTHING.at(3) is None and NOTHING.history(3) == {}


def test_y0_is_of_the_last_renewal():
    assert [replace(TIMED, renew=[3, 1]).proto(t) for t in range(5)] == [0, 1, 1, 3, 3]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.shift.window=1"], r"window=1 needs rows that have a time: data.shift.column=NAME"),
        (["data.shift.gamma=0.5"], "gamma=0.5 needs rows that have a time"),
        (["data.shift.renew=[1]"], r"renew=\[1\] needs rows that have a time"),
        (["data.shift.parts=5", "data.shift.replay=0.2"], "there is none: data.shift.window=N"),
        (["data.shift.parts=5", "data.shift.window=0"], "data.shift.window=0: .* 1$"),
        (["data.shift.parts=4"], "selfplay.iterations=5 are more than data.shift.parts=4"),
        (["data.shift.parts=5", "data.mix_last_two=true"], "data.mix_last_two=true trains on"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, says):
    with pytest.raises(ValueError, match=says) as error:
        compose(*words)
    assert "\n" not in str(error.value)


def shared(*words):
    """Iterations that a drifting run has in common with the one where all rows count."""
    both = [Point((), compose("data=micro_drift", *more)).histories for more in ((), words)]
    return [t for t, (one, other) in enumerate(zip(*both, strict=True)) if one == other]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "iterations"),
    [
        (["data.shift.window=2"], [0, 1]),
        (["data.shift.window=2", "data.shift.replay=0.5"], [0, 1]),
        (["data.shift.gamma=0.5"], [0]),
        (["data.shift.renew=[3]"], [0, 1, 2]),
        (["data.shift.window=5"], [0, 1, 2, 3, 4]),
        (["data.shift.parts=6"], []),
        (["loss=wo_ha"], [0]),
    ],
)
def test_runs_share_iterations_until_their_rows_differ(words, iterations):
    assert shared(*words) == iterations


def test_where_y0_is_renewed_the_objective_is_that_of_iteration_0():
    run = compose("data=micro_drift", "data.shift.renew=[2]")
    assert [run.loss_at(t).key()[0] for t in range(5)] == [
        "wo_ha", "tspin", "wo_ha", "tspin", "tspin"
    ]  # fmt: skip


def test_an_objective_without_samples_at_iteration_0_has_them_where_y0_is_renewed_at_1():
    run = compose("data=micro_drift", "loss=tpo", "data.shift.renew=[1]")
    assert run.samples and [run.loss_at(t).key()[0] for t in (0, 1, 2)] == ["sft", "sft", "tpo"]


def test_nothing_of_it_is_in_the_keys_of_other_runs():
    assert not any("shift" in key for facts in history(compose(), 4) for key in facts)
