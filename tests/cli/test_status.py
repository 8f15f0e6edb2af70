"""How far runs are and which of them live: by hand on made-up folders, and on processes."""

import fcntl
import json
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from functools import cache

import pytest
import yaml
from support.tiny import compose, play
from support.waiting import until

from tspin import __main__ as commands
from tspin.cli import run_folders, status
from tspin.config.load import dump
from tspin.runs import heartbeat
from tspin.runs.artifacts import RunDir, run_dirs
from tspin.runs.heartbeat import Beat
from tspin.tools import activity
from tspin.tools.files import is_owned, owner, write_json, write_text

NOW = 1_000_000.0
LIVE = Beat(
    stage="iteration 1: train", done=30, total=90, unit="step", rate=2.0, waiting=None,
    moved=NOW - 1, time=NOW - 1,
)  # fmt: skip


default = cache(compose)


def made(root, name, *, done=0, iterations=2, beat=None, begun=True):
    """A run that has finished so many iterations, of 12 seconds each."""
    plain = default()
    selfplay = replace(plain.selfplay, iterations=iterations)
    run = replace(plain, name=name, runs_dir=str(root), selfplay=selfplay)
    folder = RunDir(run.folder)
    write_text(folder.config, yaml.safe_dump(dump(run), sort_keys=False))
    for t in range(done):
        write_json(folder.iteration(t).done, {"seconds": {"train": 12.0}})
    if begun:
        write_json(folder.provenance, {"launches": []})
    if beat is not None:
        write_json(folder.heartbeat, asdict(beat))
    return folder


def of(root):
    (only,) = status.survey(root, now=NOW)
    return only


def of_live(root):
    """While a process holds the run, as a run does."""
    (folder,) = run_dirs(root)
    with owner(folder.path):
        return of(root)


# --- states --------------------------------------------------------------------------------------

CASES = {
    "not started": (None, 0, False),
    "complete": (None, 2, True),  # made before there were heartbeats
    "stopped": (None, 1, True),
    "dead": (LIVE, 1, True),
    "failed": (replace(LIVE, ended="failed", why="loss nan"), 1, True),
    "stopped by hand": (replace(LIVE, ended="stopped"), 1, True),
    "complete and said so": (replace(LIVE, ended="complete", done=90), 2, True),
    "complete, killed behind it": (replace(LIVE, done=90), 2, True),
    "dead in benchmarks asked for later": (replace(LIVE, unit="task"), 2, True),
    "failed in benchmarks asked for later": (replace(LIVE, ended="failed"), 2, True),
}
OWNED = {
    "running": (LIVE, 1, True),
    "waiting": (replace(LIVE, waiting="iteration 1"), 1, True),
    "running, silent for an hour": (replace(LIVE, time=NOW - 3600), 1, True),
    "running again after a failure": (replace(LIVE, ended="failed", why="loss nan"), 1, True),
    "running, not a word yet": (None, 0, False),
}


@pytest.mark.parametrize(("says", "case"), CASES.items(), ids=CASES)
def test_the_state_of_a_run_that_nobody_holds(tmp_path, says, case):
    beat, done, begun = case
    made(tmp_path, "run", done=done, beat=beat, begun=begun)
    state = of(tmp_path).state
    assert says.startswith(state)
    assert re.search(rf" {state} +run\s*$", run_folders.describe(tmp_path))  # as `tspin ls` has it


@pytest.mark.parametrize(("says", "case"), OWNED.items(), ids=OWNED)
def test_the_state_of_a_run_that_a_process_holds(tmp_path, says, case):
    beat, done, begun = case
    made(tmp_path, "run", done=done, beat=beat, begun=begun)
    assert says.startswith(of_live(tmp_path).state)


def test_what_a_launch_before_this_one_said_is_not_of_this_one(tmp_path):
    made(tmp_path, "run", done=1, beat=replace(LIVE, ended="failed", why="loss nan"))
    found = of_live(tmp_path)
    assert (found.stage, found.share, found.warnings) == (None, None, [])


def test_who_looks_keeps_no_run_from_beginning(tmp_path):
    """A look that lasts for a while: the owner waits a moment for it. Looks are side by side."""
    (tmp_path / ".lock").touch()
    assert not is_owned(tmp_path)
    with (tmp_path / ".lock").open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert not is_owned(tmp_path)
        threading.Timer(0.1, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with owner(tmp_path):
            assert is_owned(tmp_path)
    assert not is_owned(tmp_path) and not is_owned(tmp_path / "no folder")


# --- numbers -------------------------------------------------------------------------------------


def test_what_is_left_by_hand(tmp_path):
    """60 of 90 steps at 2 a second; of iteration 1 its 12 s are over, iteration 2 takes 12 more."""
    made(tmp_path, "run", done=1, iterations=3, beat=LIVE)
    found = of_live(tmp_path)
    assert (found.iteration, found.stage, found.complete, found.of) == (1, "train", 1, 3)
    assert found.share == pytest.approx(1 / 3)
    assert found.stage_left == 30 and found.run_left == 30 + 12
    assert found.heartbeat == 1 and found.warnings == []


def test_time_that_a_stage_took_is_not_left_for_it(tmp_path):
    """Of 12 s, 5 went into sampling and 1.5 into 3 steps; the last step is half a second."""
    beat = replace(LIVE, done=3, total=4)
    folder = made(tmp_path, "run", done=1, iterations=2, beat=beat)
    write_json(folder.iteration(1).stages, {"generate": 5.0})
    assert of_live(tmp_path).run_left == pytest.approx(12 - 5 - 1.5)


def test_nothing_is_left_and_nothing_goes_on_in_a_dead_run(tmp_path):
    made(tmp_path, "run", done=1, beat=LIVE)
    found = of(tmp_path)
    assert (found.rate, found.stage_left, found.run_left) == (None, None, None)
    assert found.share == pytest.approx(1 / 3)  # where it was
    assert "the same command goes on" in found.warnings[0]


WARNINGS = {
    "iteration 0: half were cut": replace(LIVE, warnings={"cut": "iteration 0: half were cut"}),
    "nothing has moved for 15 min": replace(LIVE, moved=NOW - 900),
}


@pytest.mark.parametrize(("says", "beat"), WARNINGS.items(), ids=WARNINGS)
def test_what_is_said_of_a_run(tmp_path, says, beat):
    made(tmp_path, "run", done=1, beat=beat)
    (warning,) = of_live(tmp_path).warnings
    assert warning.startswith(says)


def test_a_failure_is_said(tmp_path):
    made(tmp_path, "run", done=1, beat=replace(LIVE, ended="failed", why="loss nan"))
    assert of(tmp_path).warnings == ["failed: loss nan"]


def test_slow_units_are_waited_for(tmp_path):
    """10 units' time: a unit takes 1000 s here."""
    made(tmp_path, "run", done=1, beat=replace(LIVE, moved=NOW - 900, rate=0.001))
    assert of_live(tmp_path).warnings == []


def test_the_table_and_the_sum(tmp_path):
    running = made(tmp_path, "b-running", done=1, beat=LIVE)
    made(tmp_path, "a-done", done=2)
    made(tmp_path, "c-failed", beat=replace(LIVE, ended="failed", why="no room"))
    with owner(running.path):
        text = status.describe(tmp_path, status.survey(tmp_path, now=NOW), width=1000)
    lines = [line for line in text.splitlines() if line]
    row = "b-running running 1 of 2 1 train 33% 2 step/s 30 s 30 s 1 s ago -"
    assert [line.split() for line in lines][4] == row.split()
    assert lines[-2] == "c-failed: failed: no room"
    assert lines[-1] == f"{tmp_path}: 3 runs: 1 running, 1 failed, 1 complete"


def test_a_heartbeat_cut_anywhere_is_none(tmp_path):
    folder = made(tmp_path, "run", done=1, beat=LIVE)
    text = folder.heartbeat.read_text().strip()
    for n in range(len(text)):
        folder.heartbeat.write_text(text[:n])
        assert heartbeat.read(folder) is None
    assert of(tmp_path).state == "stopped"


def test_a_file_that_cannot_be_read_hides_no_other_run(tmp_path):
    made(tmp_path, "good", done=2)
    bad = made(tmp_path, "bad", done=2)
    bad.iteration(1).done.write_text("{")
    older = made(tmp_path, "older", done=1)
    older.config.write_text("name: older\n")
    found = {s.run: (s.state, s.complete, s.of) for s in status.survey(tmp_path)}
    assert found == {
        "good": ("complete", 2, 2),
        "bad": ("stopped", 1, 2),
        "older": ("stopped", 1, None),
    }


@pytest.mark.slow
def test_hundreds_of_runs_take_less_than_two_seconds(tmp_path):
    first = made(tmp_path, "run0", done=2, beat=replace(LIVE, ended="complete"))
    config, beat = first.config.read_text(), first.heartbeat.read_text()
    for i in range(1, 300):
        folder = RunDir(tmp_path / f"run{i}")
        write = {folder.config: config.replace("name: run0", f"name: run{i}"),
                 folder.heartbeat: beat}  # fmt: skip
        for t in range(2):
            write[folder.iteration(t).done] = '{"seconds": {"train": 1.0}}'
        for path, text in write.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    started = time.process_time()
    found = status.survey(tmp_path)
    took = time.process_time() - started
    assert len(found) == 300 and {s.state for s in found} == {"complete"}
    assert took < 2


# --- heartbeats ----------------------------------------------------------------------------------


@pytest.mark.runs
def test_a_run_in_the_middle_of_training(tmp_path, monkeypatch):
    """Looked at from within; and what it says of itself in the end."""
    seen = []
    from tspin.stages import train

    step = train.gradient_step

    def stepped(*args, **kwargs):
        found = step(*args, **kwargs)
        seen.extend(status.survey(tmp_path))
        return found

    monkeypatch.setattr(heartbeat, "EVERY", 0.0)
    monkeypatch.setattr(train, "gradient_step", stepped)
    folder, _ = play(tmp_path, "tspin", "selfplay.iterations=1")
    assert [(s.state, s.iteration, s.stage) for s in seen] == [("running", 0, "train")] * 3
    assert [s.share for s in seen] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [s.rate is None for s in seen] == [True, False, False]
    (after,) = status.survey(tmp_path)
    assert (after.state, after.complete, after.of) == ("complete", 1, 1)
    before = folder.heartbeat.read_bytes()
    play(tmp_path, "tspin", "selfplay.iterations=1")  # nothing to do: nothing to say
    assert folder.heartbeat.read_bytes() == before


ENDS = {"failed": ValueError("no\nroom"), "stopped": KeyboardInterrupt(), "exit": SystemExit(0)}


@pytest.mark.parametrize(("says", "error"), ENDS.items(), ids=ENDS)
def test_how_a_run_ended_is_said(tmp_path, says, error):
    folder = RunDir(tmp_path)
    with pytest.raises(type(error)), heartbeat.beating(folder):
        activity.warn("cut", "half were cut")
        activity.warn("cut", "all were cut")
        raise error
    beat = heartbeat.read(folder)
    assert beat.ended == ("failed" if says == "failed" else "stopped")
    assert beat.why == ("no room" if says == "failed" else None)
    with heartbeat.beating(folder):  # the next launch remembers
        assert heartbeat.read(folder).ended is None
    assert heartbeat.read(folder).warnings == {"cut": "half were cut"}


def test_it_beats_as_the_work_moves_and_never_stops_a_run(tmp_path, monkeypatch):
    """At once where a stage begins or is done, else now and then."""
    folder, clock = RunDir(tmp_path), [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    with heartbeat.beating(folder):
        activity.begin("iteration 0: train", "step", total=4, initial=0)
        done = [heartbeat.read(folder).done]
        for seconds in (1, 1, heartbeat.EVERY, 1):
            clock[0] += seconds
            activity.advance(1)
            done.append(heartbeat.read(folder).done)
    assert done == [0, 0, 0, 3, 4]
    folder = RunDir(tmp_path / "gone")
    with heartbeat.beating(folder):  # nowhere to write, as on a full disk
        activity.warn("cut", "half were cut")
    assert not folder.path.exists()


KILLED = """
import signal, sys
from pathlib import Path
from tspin.runs import heartbeat
from tspin.runs.artifacts import RunDir, run_dirs
from tspin.tools.files import owner
from tspin.tools.terminal import progress
run, other = map(Path, sys.argv[1:])
with owner(run), heartbeat.beating(RunDir(run)):
    with progress(4, "iteration 1: train", "step") as bar:
        bar.update(3)
        with owner(other, wait=True, what="iteration 1"):
            pass
        sys.stdout.write("free\\n")
        sys.stdout.flush()
        signal.pause()
"""


@pytest.mark.process
def test_a_process_that_waits_for_a_lock_goes_on_and_is_killed(tmp_path):
    folder = made(tmp_path / "runs", "run", done=1)
    arguments = [sys.executable, "-c", KILLED, str(folder.path), str(tmp_path / "lock")]
    with owner(tmp_path / "lock"):
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert surveyed(tmp_path / "runs", "waiting").stage == "waits for iteration 1"
    assert child.stdout.readline() == "free\n"
    found = surveyed(tmp_path / "runs", "running")
    assert (found.iteration, found.stage, found.share) == (1, "train", 0.75)
    child.send_signal(signal.SIGKILL)
    child.wait()
    found = surveyed(tmp_path / "runs", "dead")
    assert f"its process ({child.pid} on " in found.warnings[0]
    child.stdout.close()


def surveyed(runs, state):
    """The one run, once it is in that state."""
    until(lambda: [run.state for run in status.survey(runs)] == [state])
    (run,) = status.survey(runs)
    return run


# --- the command ---------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    made(tmp_path, "run", done=2)
    assert commands.main(["status", str(tmp_path)]) == 0
    assert f"{tmp_path}: 1 run: 1 complete" in capsys.readouterr().out
    assert commands.main(["status", str(tmp_path / "run"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["run"], facts["state"], facts["complete"]) == ("run", "complete", 2)


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    made(tmp_path / "inner", "run")
    for folder, says in ((tmp_path, f"there are runs in {tmp_path / 'inner'}"),
                         (tmp_path / "none", "is no folder")):  # fmt: skip
        assert commands.main(["status", str(folder)]) == 1
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    assert commands.main(["statsu"]) == 2
    assert "did you mean status?" in capsys.readouterr().err


def test_every_verb_is_in_the_help(capsys):
    assert commands.main([]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {verb} ", text, re.M) for verb in commands.VERBS)
    assert commands.main(["status", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {state} ", text, re.M) for state in status.STATES)
