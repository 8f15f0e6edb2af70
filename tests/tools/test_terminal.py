"""What a terminal, or a log, shows of a run: progress and tables. No model and no torch."""

import logging
import os
import re
import subprocess
import sys

import pytest
from support.terminal import on_a_terminal

from tspin.tools.terminal import benchmark_rows, progress, table

# --- progress --------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only where `now` is set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """That of tqdm."""
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def run_stage(clock, *, steps, seconds_per_step, initial=0):
    with progress(steps, "train", "step", initial=initial) as bar:
        for step in range(initial, steps):
            clock.now += seconds_per_step
            bar.update(1, loss=step + 0.12345)


def test_log_lines_of_a_slow_stage(caplog, clock):
    """10 steps of 10 s: a line every 30 s (steps 3, 6, 9) and one at the end."""
    caplog.set_level(logging.INFO, "tspin")
    run_stage(clock, steps=10, seconds_per_step=10)
    assert caplog.messages == [
        "train: 3/10 (30.0%), 10.00s/step, 01:10 left, loss 2.123",
        "train: 6/10 (60.0%), 10.00s/step, 00:40 left, loss 5.123",
        "train: 9/10 (90.0%), 10.00s/step, 00:10 left, loss 8.123",
        "train: 10/10 (100.0%), 10.00s/step, 00:00 left, loss 9.123",
    ]
    assert {record.name for record in caplog.records} == {"tspin"}


def test_resumed_stage_counts_old_steps_as_done_but_not_as_fast(caplog, clock):
    """90 of 100 were done before; 10 more in 40 s are 0.25 a second."""
    caplog.set_level(logging.INFO, "tspin")
    run_stage(clock, steps=100, seconds_per_step=4, initial=90)
    assert caplog.messages[0].startswith("train: 98/100 (98.0%),  4.00s/step, 00:08 left")
    assert len(caplog.messages) == 2


def test_a_short_or_silent_stage_logs_nothing(caplog, clock):
    caplog.set_level(logging.INFO, "tspin")
    run_stage(clock, steps=10, seconds_per_step=1)
    run_stage(clock, steps=0, seconds_per_step=1)
    with pytest.raises(KeyError), progress(2, "train", "step"):
        clock.now += 1000
        raise KeyError
    with progress(2, "train", "step", show=False) as bar:
        clock.now += 1000
        bar.update(1)
    assert caplog.messages == []


def test_a_stage_that_fails_says_how_far_it_was(caplog, clock):
    caplog.set_level(logging.INFO, "tspin")
    with pytest.raises(KeyError), progress(4, "train", "step") as bar:
        for _ in range(3):
            clock.now += 20
            bar.update(1)
        raise KeyError
    assert [line.split()[1] for line in caplog.messages] == ["2/4", "3/4"]


def test_bars_that_are_switched_off_leave_the_log_lines():
    """TQDM_DISABLE=1, under which points of a sweep run side by side; tqdm reads it at import."""
    code = """
import logging, sys, tqdm.std
from tspin.tools.terminal import progress
logging.basicConfig(level=logging.INFO, format="%(message)s")
seconds = iter(range(0, 10**6, 20))
tqdm.std.time = lambda: next(seconds)
with progress(2, "train", "step") as bar:
    bar.update(1)
    bar.update(1)
"""
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert re.search(r"^train: 2/2 \(100.0%\), ", done.stderr, re.M), done.stderr


def test_bar_on_a_terminal():
    code = """
import logging, sys
from tspin.tools.terminal import progress
logging.basicConfig(level=logging.INFO)
with progress(4, "train", "step", initial=1) as bar:
    for _ in range(3):
        bar.update(1, loss=0.51234)
    logging.getLogger("tspin").info("a line beside the bar")
"""
    shown = on_a_terminal(code)
    assert "4/4" in shown and "step/s" in shown and "loss 0.5123" in shown
    assert "INFO:tspin:a line beside the bar\r\n" in shown
    assert "train: 4/4 (" not in shown  # no log lines besides


# --- the table -------------------------------------------------------------------------------


def test_results_table_with_missing_values():
    text = table(
        "Iterations",
        [
            {"iteration": 0, "loss": 0.693147, "logps_annotated": -1234.56, "both": 12345}
            | {"accuracy_greedy": None, "accuracy_sampled": None, "seconds": {"train": 2.5}},
            {"iteration": 1, "loss": 1e-7, "accuracy_greedy": 0.5, "seconds": {"train": 3.0}}
            | {"rewards/annotated": -0.25},
        ],
        first=("iteration", "loss", "accuracy_greedy", "both", "rewards_annotated"),
    )
    assert text.isascii()
    assert [re.sub("--+", "rule", line).split() for line in text.splitlines()] == [
        ["Iterations"],
        ["accuracy", "rewards", "logps", "seconds"],
        ["iteration", "loss", "greedy", "both", "annotated", "annotated", "train"],
        ["rule"],
        ["0", "0.6931", "-", "12345", "-", "-1235", "2.5"],
        ["1", "1e-07", "0.5", "-", "-0.25", "-", "3"],
    ]


def test_benchmarks_stand_in_a_table_of_their_own():
    """A policy without a number (the run was asked for benchmarks later) leaves its place empty."""
    rows = [
        {"iteration": "base"},
        {"iteration": 0, "loss": 1.0}
        | {"benchmarks": {"mmlu acc,none": {"value": 0.25, "stderr": 0.03125}}},
        {"iteration": 1, "loss": 0.5}
        | {"benchmarks": {"mmlu acc,none": {"value": 0.5, "stderr": None}}},
    ]
    found = table("Benchmarks", benchmark_rows(rows))
    assert [line.split() for line in found.splitlines()][1:3] == [
        ["after", "after"],
        ["benchmark", "0", "1"],
    ]
    assert found.splitlines()[-1].split() == [
        "mmlu",
        "acc,none",
        "0.2500",
        "+-",
        "0.0312",
        "0.5000",
    ]


def test_table_never_cuts_a_column_and_shows_text_as_it_is():
    wide = {f"column_{i}": i for i in range(60)} | {"text": "[bold]x[/bold] :smile: " + "y" * 300}
    text = table("wide", [wide])
    assert "[bold]x[/bold] :smile: " + "y" * 300 in text
    assert re.findall(r"\d+", text.splitlines()[-1]) == [str(i) for i in range(60)]


def test_columns_that_do_not_fit_follow_in_blocks_below():
    rows = [{"t": t, "alpha": 1.5, "beta": 2.5, "gamma": 3.5} for t in (0, 1)]
    text = table("narrow", rows, width=24)
    blocks = [[line.split() for line in block.splitlines()] for block in text.split("\n\n")]
    assert blocks[0][1] == ["t", "alpha", "beta"] and blocks[0][3:] == [
        ["0", "1.5", "2.5"],
        ["1", "1.5", "2.5"],
    ]
    assert blocks[1][0] == ["t", "gamma"] and blocks[1][2:] == [["0", "3.5"], ["1", "3.5"]]
    assert max(map(len, text.splitlines())) <= 24
    rows[0]["gamma"] = None  # a row is not repeated where it has nothing to say
    assert table("narrow", rows, width=24).split("\n\n")[1].split()[3:] == ["1", "3.5"]
