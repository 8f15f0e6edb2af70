"""Nothing is lost: a run killed anywhere, and the same command again.

Children and their events: support/forker.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.contents import differences
from support.forker import MAIN, STAGES, STEPS, TINY
from support.waiting import until

PARTS = 3  # a set of samples: (24 + 4 prompts) / (4 batches of 3), rounded up
KILLS = int(os.environ.get("TSPIN_KILLS", "1"))  # per stage; TSPIN_KILLS=9999: at every event


def test_the_run_that_is_killed_has_every_stage(whole):
    for loss, (folder, events) in whole.items():
        stages = {stage for stage, _ in events}
        assert stages == {s for s in STAGES if loss == "spin" or "reference" not in s}
        assert len(list((folder / "run/proto").glob("part-*"))) == PARTS
        for t in (0, 1):
            assert len((folder / f"run/iter_{t}/metrics.jsonl").read_text().splitlines()) == STEPS


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_in_a_stage_it_ends_with_the_same_bits(stage, whole, forker, runs):
    reference, events = whole["spin"]
    here = [i for i, (where, _) in enumerate(events) if where == stage]
    rng = random.Random(stage)
    wrong = []
    for at in sorted(rng.sample(here, min(KILLS, len(here)))):
        do, folder = rng.choice(("kill", "tear")), runs / str(at)
        assert forker.run(folder, "loss=spin", at=at, do=do).code == -signal.SIGKILL
        child = forker.run(folder, "loss=spin")
        assert child.code == 0, f"{do} at {events[at]}:\n{child.text}"
        if differing := differences(folder, reference):
            wrong.append(f"{do} at event {at}, {events[at][1]}: {differing}")
        print(f"{do} at {at}: {events[at][1]}")  # noqa: T201  # pytest -rP lists what was tried
        shutil.rmtree(folder)
    assert wrong == []


def test_killed_again_and_again_it_ends_with_the_same_bits(whole, forker, runs):
    rng = random.Random(0)
    kills = 0
    while (
        child := forker.run(
            runs, "loss=tspin", at=rng.randrange(35, 80), do=rng.choice(("kill", "tear"))
        )
    ).code:
        assert child.code == -signal.SIGKILL, child.text
        print(*child.events[-1])  # noqa: T201  # as above
        kills += 1
    assert kills >= 4
    assert differences(runs, whole["tspin"][0]) == []


def test_killed_from_outside_at_random_times_it_ends_with_the_same_bits(whole, forker, runs):
    rng = random.Random(0)
    for _ in range(4):
        child = forker.start(runs, "loss=spin")
        time.sleep(rng.uniform(0.3, 1.5))
        child.signal(signal.SIGKILL)
        child.wait()
    assert forker.run(runs, "loss=spin").code == 0
    assert differences(runs, whole["spin"][0]) == []


def test_the_command_line_itself_killed_ends_with_the_same_bits(whole, forker, runs):
    """The same in a process of its own, which nothing but the kernel stops."""
    command = [sys.executable, str(MAIN), f"runs_dir={runs}", *TINY, "loss=spin"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": runs}
    process = subprocess.Popen(command, **quiet)
    until((runs / "run/iter_0/metrics.jsonl").exists, 300, process=process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert forker.run(runs, "loss=spin").code == 0
    assert differences(runs, whole["spin"][0]) == []


def test_killed_with_nothing_saved_the_training_begins_again(whole, forker, runs):
    rare = "compute.save_seconds=1e9"
    assert forker.run(runs, rare, at="appended 2").code == -signal.SIGKILL
    assert not (runs / "run/iter_0/train_state").exists()
    assert len((runs / "run/iter_0/metrics.jsonl").read_text().splitlines()) == STEPS
    child = forker.run(runs, rare)
    assert child.code == 0, child.text
    assert [what for _, what in child.events].count("step") == 2 * STEPS
    assert differences(runs, whole["tspin"][0]) == []


def test_killed_after_a_saved_step_only_the_rest_is_trained(whole, forker, runs):
    assert forker.run(runs, at="appended 2", do="tear").code == -signal.SIGKILL
    child = forker.run(runs)
    assert [what for _, what in child.events].count("step") == 1 + STEPS
    assert differences(runs, whole["tspin"][0]) == []


def test_killed_in_bfloat16_it_ends_with_the_same_bits(forker, runs):
    """Its rounding is random, and goes on where it was."""
    own = "optim.precision=bf16_stochastic", "selfplay.iterations=1"
    assert forker.run(runs / "whole", *own).code == 0
    assert forker.run(runs / "cut", *own, at="appended 2").code == -signal.SIGKILL
    assert (runs / "cut/run/iter_0/train_state").exists()
    child = forker.run(runs / "cut", *own)
    assert child.code == 0, child.text
    assert differences(runs / "cut", runs / "whole") == []


def test_killed_where_a_curriculum_chooses_it_ends_with_the_same_bits(forker, runs):
    """Before the choice is there, before what it keeps is, and before the reference, which has the
    scores of what it keeps."""
    own = ("loss=spin", "curriculum=gate")
    uninterrupted = forker.run(runs / "whole", *own)
    assert uninterrupted.code == 0, uninterrupted.text
    events = [what for _, what in uninterrupted.events]
    names = ("/iter_1/.choices", "/iter_1/synthetic/.kept", "/iter_1/.ref_scores")
    files = [w for name in names for w in events if w.startswith("os.rename") and name in w]
    assert len(files) == len(names)
    for at in files:
        assert forker.run(runs / "cut", *own, at=at, do="tear").code == -signal.SIGKILL
    child = forker.run(runs / "cut", *own)
    assert child.code == 0, child.text
    assert differences(runs / "cut", runs / "whole") == []


def test_killed_while_it_takes_iterations_from_another_run(whole, forker, runs):
    """Where both have made all of it, nothing is trained, and neither loses anything."""
    assert forker.run(runs, "name=first", "loss=spin").code == 0
    child = forker.run(runs, "loss=spin")
    assert child.code == 0 and "step" not in [what for _, what in child.events]
    assert differences(runs, whole["spin"][0]) == []
    linking = [i for i, (_, what) in enumerate(child.events) if "/run/iter_" in what]
    rng = random.Random(0)
    for at in sorted(rng.sample(linking, min(3 * KILLS, len(linking)))):
        shutil.rmtree(runs / "run")
        assert forker.run(runs, "loss=spin", at=at, do="tear").code == -signal.SIGKILL
        print(*child.events[at])  # noqa: T201  # as above
        assert forker.run(runs, "loss=spin").code == 0
        assert differences(runs, whole["spin"][0]) == []
    (runs / "first").rename(runs / "gone")
    shutil.rmtree(runs / "run")
    (runs / "gone").rename(runs / "run")
    assert differences(runs, whole["spin"][0]) == ["config.yaml"]  # its name


def test_seconds_of_stages_may_be_lost_but_not_the_run(whole, forker, runs):
    """Killed whenever it is about to note how long a stage took: there is no note at the end."""
    note = "os.remove /run/iter_0/.stages.json.tmp"
    for _ in ("train", "score", "evaluate"):
        assert forker.run(runs, at=note).code == -signal.SIGKILL
    child = forker.run(runs, at=note)
    assert child.code == 0, child.text
    assert differences(runs, whole["tspin"][0]) == []


def test_metrics_that_were_removed_are_made_anew(whole, forker, runs):
    """As the error says that tells of damage to them."""
    shutil.copytree(whole["spin"][0], runs / "runs")
    for name in ("metrics.jsonl", "eval.json", "done.json"):
        (runs / "runs/run/iter_1" / name).unlink()
    child = forker.run(runs / "runs", "loss=spin")
    assert child.code == 0, child.text
    assert [what for _, what in child.events].count("step") == STEPS
    assert differences(runs / "runs", whole["spin"][0]) == []
