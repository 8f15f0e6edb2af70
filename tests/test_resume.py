"""Nothing is lost: a run killed, refused, out of disk or diverged, and the same command again.

`main.py` runs here in children forked from one process that has imported torch (a start costs
milliseconds instead of seconds). A child counts the file operations it is about to do below
`runs_dir`, its rows of metrics and its optimiser steps: those are its events. Between two of them
nothing on the disk changes but a temporary file that grows, so killing a child at every event,
and tearing what it was writing, is killing it everywhere.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAIN = ROOT / "main.py"
TINY = [
    "name=run", "track=none", "data.size=24", "data.heldout=16", "selfplay.iterations=2",
    "optim.batch_size=8", "optim.epochs=1", "decoding.batch_size=16", "compute.device=cpu",
    "compute.save_seconds=0",
]  # fmt: skip
STEPS = 3  # an iteration: 24 pairs / 8
PARTS = 3  # a set of samples: (24 + 16 prompts) / 16
KILLS = int(os.environ.get("TSPIN_KILLS", "2"))  # per stage and loss; 9999: every event

LOSSES = ("tspin", "spin")
STAGES = ["start", "prepare", "proto: generate", "base: evaluate"] + [
    f"iteration {t}: {stage}"
    for t in (0, 1)
    for stage in ("generate", "score reference", "train", "score", "evaluate", "done")
    if (t, stage) != (0, "generate")  # y' is y0 there: linked, not sampled
]
POINTS = [
    pytest.param(loss, stage, id=f"{loss}-{stage}")
    for loss in LOSSES
    for stage in STAGES
    if loss == "spin" or "reference" not in stage
]


# --- the process that forks ------------------------------------------------------------------


def serve() -> None:
    """Reads jobs from stdin, one JSON object a line, and answers each in one line.

    {"argv": [...], "runs": FOLDER, "log": FILE, "at": N | null, "do": "kill"} -> pid
    {"wait": PID} -> exit code, or minus the signal
    """
    import hydra.main  # noqa: F401  # what a child need not repeat: imports, the task's contents
    import pandas  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tspin import console, micro, selfplay  # noqa: F401
    from tspin.micro import task

    for kind in (AutoModelForCausalLM, AutoTokenizer):
        kind.from_pretrained(micro.folder("warm"))
    for split in ("train", "test"):
        task.num_available(split)
    answer = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            result = os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])
        else:
            result = os.fork() or _child(job)
        answer.write(f"{result}\n")
        answer.flush()


def _child(job: dict) -> None:
    with open(job["log"], "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    events = Events(job)
    events.watch()
    sys.argv = [str(MAIN), *job["argv"]]
    code = 0
    try:
        runpy.run_path(str(MAIN), run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 99  # a traceback is never what a user should see
    events.write()
    sys.stderr.flush()
    os._exit(code)


class Events:
    """Counts what a child is about to do; at event number `at` does what it was told instead.

    kill  SIGKILL
    tear  SIGKILL in the middle of a write: temporaries lose half, metrics.jsonl half a row
    stop  SIGSTOP, until somebody continues or kills it
    """

    def __init__(self, job: dict):
        self.runs, self.at, self.do = job["runs"], job["at"], job["do"]
        self.record = Path(job["log"]).with_suffix(".events")
        self.seen: list[tuple[str, str]] = []  # stage, what
        self.stage = "start"

    def watch(self) -> None:
        import torch.optim.optimizer as optimizer

        from tspin import selfplay
        from tspin.tracking import StepLog

        for name in ("prepare", "generate", "evaluate", "score", "train"):
            setattr(selfplay, name, self._entering(getattr(selfplay, name), name))
        append = StepLog.append

        def appending(log, row):
            append(log, row)
            self.add(f"appended {row['step']}")

        StepLog.append = appending
        optimizer.register_optimizer_step_pre_hook(lambda *_: self.add("step"))
        sys.addaudithook(self._audit)

    def write(self) -> None:
        self.record.write_text(json.dumps(self.seen))

    def add(self, what: str, stage: str | None = None) -> None:
        self.seen.append((stage or self.stage, what))
        if len(self.seen) - 1 == self.at:
            if self.do == "tear":
                self._tear()
            os.kill(os.getpid(), signal.SIGSTOP if self.do == "stop" else signal.SIGKILL)

    def _entering(self, stage, name):
        @functools.wraps(stage)
        def entered(*args, **kwargs):
            self.stage = kwargs.get("label", name)
            return stage(*args, **kwargs)

        return entered

    def _audit(self, event: str, args: tuple) -> None:
        if event == "open":
            path, mode, _ = args
            # Of what is read, only the fsync of temporaries and (mode None) of folders counts.
            if mode is not None and not set(mode) & set("wax+") and ".tmp" not in str(path):
                return
        elif event not in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"):
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else ""
        if path.startswith(self.runs):
            inside = path.removeprefix(self.runs)
            done = "done.json" in path or "train_state" in path and event in ("os.rmdir",)
            stage = f"{self.stage.split(':')[0]}: done" if done else None
            self.add(f"{event} {inside}", stage)

    def _tear(self) -> None:
        for path in Path(self.runs).rglob("*"):
            if ".tmp" in str(path) and path.is_file() and path.stat().st_nlink == 1:
                os.truncate(path, path.stat().st_size // 2)
        if self.seen[-1][1].startswith("appended"):
            files = Path(self.runs).glob("run/iter_*/metrics.jsonl")
            newest = max(files, key=lambda path: path.parent.name)
            os.truncate(newest, newest.stat().st_size - 40)


class Forker:
    """The test's end of `serve`."""

    def __init__(self, folder: Path):
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    def start(self, runs: Path, *argv: str, at: int | None = None, do: str = "kill") -> Child:
        self._count += 1
        log = self._folder / f"{self._count}.log"
        job = {"argv": [f"runs_dir={runs}", *TINY, *argv], "runs": str(runs), "log": str(log)}
        return Child(self, self._ask({**job, "at": at, "do": do}), log)

    def run(self, runs: Path, *argv: str, **how) -> Child:
        """A child that has ended."""
        child = self.start(runs, *argv, **how)
        child.wait()
        return child

    def _ask(self, job: dict) -> int:
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class Child:
    def __init__(self, forker: Forker, pid: int, log: Path):
        self._forker, self.pid, self._log = forker, pid, log
        self.code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = self._forker._ask({"wait": self.pid})
        return self.code

    def signal(self, which: int) -> None:
        os.kill(self.pid, which)

    def until_stopped(self) -> None:
        while Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            time.sleep(0.01)

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def events(self) -> list[tuple[str, str]]:
        return [tuple(e) for e in json.loads(self._log.with_suffix(".events").read_text())]


# --- what a run left -------------------------------------------------------------------------

TIMES = ("seconds", "tokens_per_second")
OF_A_LAUNCH = ("provenance.json", "tracking.json", "stages.json", ".stages.json.tmp", ".lock")


def contents(folder: Path) -> dict[str, object]:
    """Every file of a run by its path: its digest, or its values without what a clock measured."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in OF_A_LAUNCH:
            continue
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            found[name] = [_timeless(json.loads(line)) for line in path.open()]
        elif path.name in ("done.json", "manifest.json"):
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.name == "config.yaml":
            found[name] = [li for li in path.open() if not li.startswith(("runs_dir", "  save_"))]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _timeless(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in TIMES}


def same(runs: Path, whole: Path) -> None:
    """The two runs hold the same files with the same bits."""
    ours, theirs = contents(runs / "run"), contents(whole / "run")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.fixture(scope="module")
def forker(tmp_path_factory) -> Iterator[Forker]:
    forker = Forker(tmp_path_factory.mktemp("forker"))
    yield forker
    forker.close()


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

tried: dict[str, int] = {}  # stage -> kills, over the whole module


def test_the_run_that_is_killed_has_every_stage(whole):
    for loss, (folder, events) in whole.items():
        stages = {stage for stage, _ in events}
        assert stages == {s for s in STAGES if loss == "spin" or "reference" not in s}
        assert len(list((folder / "run/proto").glob("part-*"))) == PARTS
        for t in (0, 1):
            assert len((folder / f"run/iter_{t}/metrics.jsonl").read_text().splitlines()) == STEPS


@pytest.mark.parametrize("loss, stage", POINTS)
def test_killed_anywhere_in_a_stage_it_ends_with_the_same_bits(loss, stage, whole, forker, runs):
    reference, events = whole[loss]
    here = [i for i, (where, _) in enumerate(events) if where == stage]
    rng = random.Random(f"{loss} {stage}")
    for at in sorted(rng.sample(here, min(KILLS, len(here)))):
        do = rng.choice(("kill", "tear"))
        folder = runs / str(at)
        assert forker.run(folder, f"loss={loss}", at=at, do=do).code == -signal.SIGKILL
        child = forker.run(folder, f"loss={loss}")
        assert child.code == 0, f"{do} at {events[at]}:\n{child.text}"
        try:
            same(folder, reference)
        except AssertionError as error:
            raise AssertionError(f"{do} at event {at}, {events[at]}") from error
        tried[stage] = tried.get(stage, 0) + 1
        shutil.rmtree(folder)


if __name__ == "__main__":
    serve()
