"""Nothing is lost: a run killed, refused, out of disk or diverged, and the same command again.

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
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from support.contents import contents, differences
from support.disks import disk, remount
from support.forker import LOSSES, MAIN, STAGES, TINY
from support.waiting import until

from tspin.tools.files import read_json, write_json
from tspin.tools.parquet import read_rows
from tspin.tools.signals import REQUEUE

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3  # an iteration: 24 pairs / 8
PARTS = 3  # a set of samples: (24 + 16 prompts) / (4 batches of 4), rounded up
KILLS = int(os.environ.get("TSPIN_KILLS", "1"))  # per stage; TSPIN_KILLS=9999: at every event

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="forks with torch loaded, and reads /proc"),
]


def own_model(folder: Path, which: str) -> Path:
    """A copy of an embedded model. -> its weights"""
    shutil.copytree(ROOT / "tspin/micro" / which, folder)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def whole(forker, tmp_path_factory) -> dict[str, tuple[Path, list[tuple[str, str]]]]:
    """By loss: the folder of a run never stopped, and its events."""
    found = {}
    for loss in LOSSES:
        runs = tmp_path_factory.mktemp(loss)
        child = forker.run(runs, f"loss={loss}")
        assert child.code == 0, child.text
        found[loss] = runs, child.events
    return found


@pytest.fixture
def runs(tmp_path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


# --- killed ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again_it_ends_with_the_same_bits(seed, whole, forker, runs):
    rng = random.Random(seed)
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


def test_the_command_line_itself_killed_twice_ends_with_the_same_bits(whole, forker, runs):
    """The same in processes of their own, which nothing but the kernel stops."""
    rng = random.Random(1)
    command = [sys.executable, str(MAIN), f"runs_dir={runs}", *TINY, "loss=spin"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": runs}
    for sign in ("run/config.yaml", "run/iter_0/metrics.jsonl"):
        process = subprocess.Popen(command, **quiet)
        until((runs / sign).exists)
        time.sleep(rng.uniform(0, 0.5))
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
    own = "optim.precision=bf16_stochastic"
    assert forker.run(runs / "whole", own).code == 0
    assert forker.run(runs / "cut", own, at="appended 2").code == -signal.SIGKILL
    assert (runs / "cut/run/iter_0/train_state").exists()
    child = forker.run(runs / "cut", own)
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
    for at in sorted(rng.sample(linking, min(5 * KILLS, len(linking)))):
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


# --- refused ---------------------------------------------------------------------------------


def test_another_configuration_is_refused_naming_what_differs(whole, forker):
    child = forker.run(whole["tspin"][0], "optim.lr=1e-4", "data.size=23", "data.heldout=16")
    assert child.code == 1
    assert "data.size (there 24, here 23)" in child.text
    assert "optim.lr (there 3e-05, here 0.0001)" in child.text
    assert "heldout" not in child.text and "name=" in child.text
    assert len(child.text.splitlines()) == 1


def test_keys_that_change_no_number_may_differ(whole, forker, runs):
    """The folder may move too: runs_dir is one of them."""
    shutil.copytree(whole["tspin"][0] / "run", runs / "run")
    free = ["track.project=p", "track.entity=e", "track.group=g", "track.tags=[a]"]
    free += ["track.wandb=offline", "compute.save_seconds=7", "compute.threads=2"]
    child = forker.run(runs, *free)
    assert child.code == 0, child.text
    assert "nothing to do" in child.text


def test_other_initial_weights_are_refused(forker, runs):
    weights = own_model(runs / "model", "warm")
    child = forker.run(runs, f"model.path={runs / 'model'}", at="appended 1")
    assert child.code == -signal.SIGKILL, child.text
    before = (runs / "run/iter_0/metrics.jsonl").read_bytes()
    weights.write_bytes((ROOT / "tspin/micro/base/model.safetensors").read_bytes())
    child = forker.run(runs, f"model.path={runs / 'model'}")
    assert child.code == 1 and len(child.text.splitlines()) == 2  # the folder, the error
    assert "began with other weights" in child.text and "name=" in child.text
    assert (runs / "run/iter_0/metrics.jsonl").read_bytes() == before


def test_proto_samples_of_another_key_are_refused(forker, whole, runs):
    shutil.copytree(whole["tspin"][0] / "proto", runs / "proto")
    (manifest,) = (runs / "proto").glob("*/manifest.json")
    facts = read_json(manifest)
    facts["key"]["seed"] += 1
    write_json(manifest, facts)
    child = forker.run(runs)
    assert child.code == 1 and not (runs / "run/proto").exists()
    assert f"{manifest.parent} holds samples of another policy, data or decoding" in child.text


def test_a_complete_run_is_skipped_without_its_model(forker, runs):
    weights = own_model(runs / "model", "warm")
    command = [f"model.path={runs / 'model'}", "selfplay.iterations=1"]
    assert forker.run(runs, *command).code == 0
    before = contents(runs / "run")
    weights.write_bytes(b"")  # whoever loads or reads it now fails
    child = forker.run(runs, *command)
    assert child.code == 0 and "nothing to do" in child.text
    assert contents(runs / "run") == before


# --- the machine is wanted back --------------------------------------------------------------


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


# --- several at once -------------------------------------------------------------------------


def test_of_eight_jobs_that_share_samples_one_makes_them_whoever_dies(whole, forker, runs):
    """Runs that differ by alpha have y0 and the initial policy's evaluation in common.

    The first dies with one part made and the second begun; the seven that wait for it end.
    """
    part = "/.part-{:05d}.parquet.tmp"
    begun = next(what for _, what in whole["tspin"][1] if part.format(1) in what)
    point = ["selfplay.iterations=1", "name=job0", "coef.alpha=0.1"]
    first = forker.start(runs, *point, at=begun, do="stop")
    first.until_stopped()
    (made,) = (runs / "proto").glob("*/part-*")
    before = made.stat().st_ino
    jobs = [
        forker.start(runs, point[0], f"name=job{i}", f"coef.alpha=0.{i + 1}") for i in range(1, 8)
    ]
    until(lambda: all((runs / f"job{i}/tracking.json").exists() for i in range(1, 8)))
    first.signal(signal.SIGKILL)
    first.wait()
    for job in jobs:
        assert job.wait() == 0, job.text
    happened = [what for job in jobs for _, what in job.events]
    for index, times in ((0, 0), (1, 1), (2, 1)):
        renamed = [
            w for w in happened if w.startswith("os.rename /proto") and part.format(index) in w
        ]
        assert len(renamed) == times
    assert sum(w.startswith("os.rename /base") and "scores" in w for w in happened) == 1
    for i in range(1, 8):
        assert (runs / f"job{i}/proto" / made.name).stat().st_ino == before


# --- two at once -----------------------------------------------------------------------------


def test_one_folder_has_one_owner_until_it_dies(whole, forker, runs):
    first = forker.start(runs, at="appended 1", do="stop")
    first.until_stopped()
    second = forker.run(runs)  # at once: the first stands still
    assert second.code == 1
    assert f"{runs / 'run'} is in use by another process" in second.text
    assert len(second.text.splitlines()) == 1
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert forker.run(runs).code == 0
    assert differences(runs, whole["tspin"][0]) == []


@pytest.mark.parametrize("fate", [signal.SIGCONT, signal.SIGKILL])
def test_samples_that_two_runs_share_are_made_once(fate, whole, forker, runs):
    """The second waits for the first; where the first dies it goes on with what there is."""
    second_part = next(what for _, what in whole["tspin"][1] if ".part-00001" in what)
    first = forker.start(runs, "name=first", at=second_part, do="stop")
    first.until_stopped()
    (part,) = (runs / "proto").glob("*/part-*")
    made = part.stat().st_ino
    second = forker.start(runs, "loss=spin")
    until(lambda: "waiting for" in second.text)
    assert len(list((runs / "proto").glob("*/part-*"))) == 1  # it waits
    first.signal(fate)
    assert first.wait() == (0 if fate == signal.SIGCONT else -signal.SIGKILL)
    assert second.wait() == 0, second.text
    assert part.stat().st_ino == made == (runs / "run/proto" / part.name).stat().st_ino
    if fate == signal.SIGCONT:
        assert (runs / "first/proto" / part.name).stat().st_ino == made
    assert differences(runs, whole["spin"][0]) == []


# --- no room, no right -----------------------------------------------------------------------


FULL = {  # the file that finds no room, or thereabouts -> size of the disk, overrides
    "prompts": ("12k", ()),
    "metrics": ("60k", ()),
    "train_state": ("2m", ()),
    "the next train_state": ("7m", ()),
    "checkpoint": ("1m", ("compute.save_seconds=1e9",)),
}


@pytest.mark.parametrize("size, argv", FULL.values(), ids=FULL)
def test_a_full_disk_loses_nothing(size, argv, whole, forker, runs):
    folder = runs / "disk"
    with disk(folder, size):
        child = forker.run(folder, "loss=spin", *argv, blind=True)
        assert child.code == 1, child.text
        error = child.text.splitlines()[-1]
        print(error)  # noqa: T201  # which file it was
        assert error.startswith("error: ") and str(folder) in error
        assert "No space left" in error and "same command" in error
        temporary = [p for p in folder.rglob("*") if ".tmp" in p.name]
        assert temporary == []
        remount(folder, "size=64m")
        child = forker.run(folder, "loss=spin", *argv)
        assert child.code == 0, child.text
        assert differences(folder, whole["spin"][0]) == []


def test_a_disk_with_too_little_room_is_named_before_the_work(whole, forker, runs):
    """Weights of 1.85 MB, twice that as a state: an old and a new state, 7.4 MB, do not fit."""
    folder = runs / "disk"
    with disk(folder, "6m"):
        child = forker.run(folder, "loss=spin")
        error = child.text.splitlines()[-1]
        assert child.code == 1 and error.startswith("error: iteration 0: train needs ")
        assert f"on the disk of {folder / 'run/iter_0'}" in error and "Nothing was begun" in error
        assert not (folder / "run/iter_0/metrics.jsonl").exists()
        remount(folder, "size=64m")
        assert forker.run(folder, "loss=spin").code == 0
        assert differences(folder, whole["spin"][0]) == []


def test_a_read_only_disk_is_named(forker, runs):
    folder = runs / "disk"
    with disk(folder, "64m"):
        remount(folder, "ro")
        child = forker.run(folder)
        assert child.code == 2 and len(child.text.splitlines()) == 1
        assert f"runs_dir={folder}: {folder} is no folder we may write to" in child.text


@pytest.mark.parametrize("argv", [[], ["-m", "seed=0,1", "name=null"]], ids=["one", "many"])
def test_a_folder_below_a_file_is_named(argv, forker, runs):
    (runs / "file").touch()
    child = forker.run(runs / "file" / "runs", *argv)
    assert child.code == 2 and len(child.text.splitlines()) == 1
    assert f"{runs / 'file'} is no folder we may write to" in child.text


# --- diverged --------------------------------------------------------------------------------


def test_a_diverged_training_stops_with_the_last_good_step(forker, runs):
    """The step with lr 1e30 is the first one; the loss after it is not finite."""
    for _ in range(2):  # and stops there again
        child = forker.run(runs, "optim.lr=1e30")
        error = child.text.splitlines()[-1]
        assert child.code == 1 and error.startswith("error: diverged at iteration 0: train 1")
        assert "nan" in error and "Try a smaller optim.lr" in error
        trained = [r for r in read_rows(runs / "run/prompts.parquet") if r["split"] == "train"]
        assert sum(row["id"] in error for row in trained) == 8  # the batch
        out = runs / "run/iter_0"
        assert sorted(p.name for p in out.iterdir()) == [
            "metrics.jsonl",
            "synthetic",
            "train_state",
        ]
        assert [p.name for p in (out / "train_state").iterdir()] == ["state.safetensors"]
        with safe_open(out / "train_state/state.safetensors", framework="np") as state:
            assert state.metadata()["next_step"] == "1"
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_point_that_fails_does_not_touch_the_others(forker, runs):
    points = ["name=null", "selfplay.iterations=1"]
    alone = forker.run(runs / "alone", *points, "optim.lr=1e-5")
    assert alone.code == 0, alone.text
    (good,) = (p for p in (runs / "alone").iterdir() if (p / "config.yaml").exists())
    for done in (0, 1):  # the second time one is there and not run again
        child = forker.run(runs / "many", "-m", *points, "optim.lr=1e30,1e-5")
        assert f"2 points, {done} done, {2 - done} to run" in child.text
        assert child.code == 1 and "must be finite" in child.text
        assert contents(runs / "many" / good.name) == contents(good)
        assert len(list((runs / "many").glob("*/iter_0/done.json"))) == 1


def test_a_lost_machine_costs_what_came_since_the_last_save(whole, forker, runs):
    """Killed at step 1: the copy has the state behind step 0, pushed when it was saved."""
    copied = [f"sync.url=file://{runs / 'store'}"]
    assert forker.run(runs / "first", *copied, at="appended 1").code == -signal.SIGKILL
    again = forker.run(runs / "second", *copied)
    assert again.code == 0, again.text
    assert sum(e == ("iteration 0: train", "step") for e in again.events) == STEPS - 1
    assert differences(runs / "second", whole["tspin"][0]) == []
