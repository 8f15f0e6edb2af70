"""How far a run is: the time left by hand, and a log never silent for 30 s. No clock runs."""

import logging
import threading

import pytest
from support.terminal import on_a_terminal

from tspin.tools import activity
from tspin.tools.run_progress import QuietLog, RunProgress, repeating, run_progress


class Clock:
    """Seconds that pass only where `now` is set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_time_left_is_by_the_mean_of_the_iterations_of_this_launch():
    """Two of 5 were done before; one takes 60 s: 2 x 60 s are left, 20 s later 100 s."""
    clock = Clock()
    run = RunProgress(5, initial=2, clock=clock)
    clock.now += 60
    assert run.seconds_left is None and str(run) == "run: 2 of 5 iterations"
    run.finish_iteration()
    clock.now += 20
    assert run.seconds_left == 100
    run.show("accuracy 42.0% (iteration 2)")
    line = "run: 3 of 5 iterations, 1.7 min left, accuracy 42.0% (iteration 2)"
    assert str(run) == line
    clock.now += 1000
    assert run.seconds_left is None  # no longer a guess worth saying
    run.finish_iteration()
    run.finish_iteration()
    assert str(run) == "run: 5 of 5 iterations, accuracy 42.0% (iteration 2)"


def test_the_whole_is_estimated_once_an_iteration_was_played():
    """One of 4 was there and takes no time; the next takes 60 s: 2 x 60 s are left of 180."""
    clock = Clock()
    run = RunProgress(4, clock=clock)
    run.finish_iteration(played=False)
    assert run.estimate is None and run.seconds_left is None
    clock.now += 60
    run.finish_iteration()
    assert run.estimate == "about 2.0 min left, 3.0 min in all, by the first iteration"
    clock.now += 60
    run.finish_iteration()
    assert run.estimate is None  # the bar has it


@pytest.fixture
def quiet(caplog):
    """A log that a run's lines go to, its clock, and those lines."""
    caplog.set_level(logging.INFO, "tspin")
    clock = Clock()
    lines = QuietLog(RunProgress(5, clock=clock), clock=clock)
    log = logging.getLogger("tspin")
    log.addFilter(lines)
    yield clock, lines, caplog
    log.removeFilter(lines)


def test_a_log_has_a_line_at_least_every_30_seconds(quiet):
    """Of a stage whose one step takes 100 s: 30, 60 and 90 s after it began."""
    clock, lines, caplog = quiet
    activity.begin("iteration 0: train", "step", total=10, initial=0)
    for _ in range(100):
        clock.now += 1
        lines.look()
    line = "run: 0 of 5 iterations; iteration 0: train: 0/10 steps"
    assert caplog.messages == [line] * 3


def test_other_lines_count(quiet):
    clock, lines, caplog = quiet
    for _ in range(4):
        clock.now += 20
        logging.getLogger("tspin").info("a line of a stage")
        lines.look()
    assert caplog.messages == ["a line of a stage"] * 4


def test_what_is_repeated_ends_with_the_block():
    calls, enough, waits = [], threading.Event(), iter([False, False, True])

    def call():
        calls.append(threading.current_thread())
        if len(calls) == 2:
            enough.set()

    with repeating(call, every=30.0, wait=lambda seconds: seconds != 30.0 or next(waits)):
        assert enough.wait(60)
    assert len(calls) == 2 and not calls[0].is_alive()


def test_without_a_terminal_the_log_is_as_it_was_afterwards(caplog):
    log = logging.getLogger("tspin")
    before = list(log.filters)
    with run_progress(2) as run:
        assert log.filters != before
        run.finish_iteration()
    assert log.filters == before


def test_another_process_shows_nothing(caplog):
    with run_progress(2, show=False) as run:
        run.finish_iteration()
    assert caplog.messages == []


@pytest.mark.process
def test_one_bar_for_the_run_above_that_of_the_stage():
    screen = on_a_terminal("""
import logging
from tspin.tools.run_progress import run_progress
from tspin.tools.terminal import progress
logging.basicConfig(level=logging.INFO)
with run_progress(2) as run:
    for t in range(2):
        with progress(3, f"iteration {t}: train", "step") as bar:
            for _ in range(3):
                bar.update(1, loss=0.5)
            bar.refresh()
        run.finish_iteration()
        run.show("accuracy 42.0%")
""")
    assert "run |" in screen and "1 of 2 iterations, " in screen and "accuracy 42.0%" in screen
    assert screen.index("run |") < screen.index("\n") < screen.index("iteration 0: train")
    assert "2 of 2 iterations, accuracy 42.0%" in screen.rstrip().splitlines()[-1]
