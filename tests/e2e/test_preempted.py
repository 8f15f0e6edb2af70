"""The machine is wanted back: what is saved, and where a fresh machine goes on."""

from __future__ import annotations

import signal

from safetensors import safe_open
from support.contents import differences
from support.forker import STEPS

from tspin.tools.signals import REQUEUE


def test_a_preempted_training_saves_its_step_and_asks_to_be_requeued(whole, forker, runs):
    rare = "compute.save_seconds=1e9"
    child = forker.run(runs, rare, at="appended 1", do="term")
    assert child.code == REQUEUE, child.text
    assert child.text.splitlines()[-1] == "stopped by SIGTERM; the same command goes on from here"
    with safe_open(runs / "run/iter_0/train_state/state.safetensors", framework="pt") as state:
        assert state.metadata()["next_step"] == "2"  # step 1 was finished
    again = forker.run(runs, rare)
    assert again.code == 0 and ("step", "iteration 0: train") not in again.events
    assert sum(e == ("iteration 0: train", "step") for e in again.events) == STEPS - 2
    assert differences(runs, whole["tspin"][0]) == []


def test_preempted_behind_the_last_step_nothing_of_it_is_lost(whole, forker, runs):
    rare = "compute.save_seconds=1e9"
    assert forker.run(runs, rare, at=f"appended {STEPS - 1}", do="term").code == REQUEUE
    again = forker.run(runs, rare)
    assert ("iteration 0: train", "step") not in again.events
    assert differences(runs, whole["tspin"][0]) == []


def test_preempted_sampling_finishes_its_part(whole, forker, runs):
    second = next(what for _, what in whole["tspin"][1] if ".part-00001" in what)
    assert forker.run(runs, at=second, do="term").code == REQUEUE
    parts = sorted(path.name for path in (runs / "proto").glob("*/part-*"))
    assert parts == ["part-00000.parquet", "part-00001.parquet"]
    assert forker.run(runs).code == 0
    assert differences(runs, whole["tspin"][0]) == []


def test_preempted_in_a_stage_that_saves_nothing_it_stops_at_once(whole, forker, runs):
    stages = [stage for stage, _ in whole["tspin"][1]]
    child = forker.run(runs, at=stages.index("base: evaluate"), do="term")
    assert child.code == REQUEUE and child.events[-1][0] == "base: evaluate"
    assert forker.run(runs).code == 0
    assert differences(runs, whole["tspin"][0]) == []


def test_a_fresh_machine_goes_on_from_the_copy(whole, forker, runs):
    """Another runs_dir, which shares nothing with the first but sync.url."""
    copied = [f"sync.url=file://{runs / 'store'}", "compute.save_seconds=1e9"]
    first, second = runs / "first", runs / "second"
    assert forker.run(first, *copied, at="appended 1", do="term").code == REQUEUE
    again = forker.run(second, *copied)
    assert again.code == 0, again.text
    assert sum(e == ("iteration 0: train", "step") for e in again.events) == STEPS - 2
    assert not {"proto: generate", "base: score"} & {stage for stage, _ in again.events}
    assert differences(second, whole["tspin"][0]) == []
    third = forker.run(runs / "third", *copied)
    assert third.code == 0 and "nothing to do" in third.text
    assert differences(runs / "third", whole["tspin"][0]) == []


def test_a_lost_machine_costs_what_came_since_the_last_save(whole, forker, runs):
    """Killed at step 1: the copy has the state behind step 0, pushed when it was saved."""
    copied = [f"sync.url=file://{runs / 'store'}"]
    assert forker.run(runs / "first", *copied, at="appended 1").code == -signal.SIGKILL
    again = forker.run(runs / "second", *copied)
    assert again.code == 0, again.text
    assert sum(e == ("iteration 0: train", "step") for e in again.events) == STEPS - 1
    assert differences(runs / "second", whole["tspin"][0]) == []
