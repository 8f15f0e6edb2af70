"""Children of one process that has imported torch: a start costs milliseconds, not seconds.

`Forker.python` is `python WORDS`, for tests of the command line. HF_* and what else libraries read
when they are imported is the server's: a test that sets it starts a process of its own.

A child of `Forker.run` runs `main.py` and counts the file operations that it is about to do below
`runs_dir`, its rows of metrics and its optimiser steps: those are its events. Between two of them
nothing on the disk changes but a temporary file that grows, so killing a child at every event, and
tearing what it was writing, is killing it everywhere.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "main.py"
TINY = [
    "name=run", "track=none", "track.report=false", "data.size=24", "data.heldout=4",
    "selfplay.iterations=2", "optim.batch_size=8", "optim.epochs=1", "decoding.batch_size=3",
    "compute.device=cpu", "compute.save_seconds=0",
]  # fmt: skip
STEPS = 3  # an iteration: 24 pairs / 8
HANGS = 300.0  # seconds of a child
LOSSES = ("tspin", "spin")  # without and with a reference
STAGES = ["start", "prepare", "proto: generate", "base: score", "base: evaluate"] + [
    f"iteration {t}: {stage}"
    for t in (0, 1)
    for stage in ("generate", "score reference", "train", "score", "evaluate", "done")
    if (t, stage) != (0, "generate")  # y' is y0 there: linked, not sampled
]


# By loss: the folder of a run that nothing stopped, and its events.
Whole = dict[str, tuple[Path, list[tuple[str, str]]]]


class Forker:
    """The test's end of `serve`."""

    def __init__(self, folder: Path):
        self._folder, self._count = folder, 0
        self._children: list[Child] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.forker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            },
        )

    def start(
        self,
        runs: Path,
        *argv: str,
        at: int | str | None = None,
        do: str = "kill",
        blind: bool = False,
        clock: bool = False,
    ) -> Child:
        self._count += 1
        log = self._folder / f"{self._count}.log"
        job = {"argv": [f"runs_dir={runs}", *TINY, *argv], "runs": str(runs), "log": str(log)}
        pid = self._ask({**job, "at": at, "do": do, "blind": blind, "clock": clock})
        self._children.append(Child(self, pid, log))
        return self._children[-1]

    def python(
        self, *words: str, cwd: Path, code: int = 0, typed: str = "", **environment: str
    ) -> Ended:
        """`python WORDS` with SCRIPT, -m MODULE or -c CODE first: as it ended, with that code.

        typed: what it reads from standard input, a pipe
        """
        return self.start_python(*words, cwd=cwd, typed=typed, **environment).ended(code)

    def start_python(self, *words: str, cwd: Path, typed: str = "", **environment: str) -> Child:
        self._count += 1
        log = self._folder / f"{self._count}.log"
        job = {"words": words, "cwd": str(cwd), "environment": environment, "log": str(log)}
        job["typed"] = typed
        self._children.append(Child(self, self._ask(job), log))
        return self._children[-1]

    def run(self, runs: Path, *argv: str, **how) -> Child:
        """A child that has ended."""
        child = self.start(runs, *argv, **how)
        child.wait()
        return child

    def whole(self, folder: Path) -> Whole:
        """A run of each loss that nothing stops, in a folder of its own."""
        results: Whole = {}
        for loss in LOSSES:
            child = self.run(folder / loss, f"loss={loss}")
            assert child.code == 0, child.text
            results[loss] = folder / loss, child.events
        return results

    def end(self) -> None:
        """Kills the children that nobody has waited for: a test failed, and left them stopped."""
        for child in self._children:
            if child.code is None:
                child.signal(signal.SIGKILL)
                child.wait()
        self._children.clear()

    def _ask(self, job: dict) -> int | None:
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Child:
    def __init__(self, forker: Forker, pid: int, log: Path):
        self._forker, self.pid, self._log = forker, pid, log
        self.code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = self._forker._ask({"wait": self.pid})
            assert self.code is not None, f"not ended after {HANGS} s:\n{self.text}"
        return self.code

    def ended(self, code: int = 0) -> Ended:
        """Of `start_python`, once it has ended, with that exit code."""
        self.wait()
        out, err = (self._log.with_suffix(kind).read_text() for kind in (".out", ".err"))
        assert self.code == code, f"{self.code}, not {code}:\n{out}{err}"
        return Ended(self.code, out, err)

    def signal(self, which: int) -> None:
        os.kill(self.pid, which)

    def until_stopped(self) -> None:
        until(lambda: self._state == "T")

    def over(self) -> bool:
        """Whether it has ended: `wait` would return at once."""
        return self._state == "Z"

    @property
    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    @property
    def text(self) -> str:
        """What it has said so far: its log is its own first act."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def events(self) -> list[tuple[str, str]]:
        return [tuple(e) for e in json.loads(self._log.with_suffix(".events").read_text())]


# --- the process that forks ----------------------------------------------------------------------


def serve() -> None:
    """Reads jobs from stdin, one JSON object a line, and answers each in one line.

    {"argv": [...], "runs": FOLDER, "log": FILE, "at": N | WHAT | null, "do": "kill",
     "blind": false, "clock": false} -> pid
    {"words": [...], "cwd": FOLDER, "environment": {...}, "typed": TEXT, "log": FILE} -> pid
    {"wait": PID} -> exit code, or minus the signal; null where it hangs
    """
    gc.disable()  # until all is here
    # What a child need not repeat: imports, plugins, the task's contents, the machine's rate.
    import hydra.main  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from analysis.report import page, render, report, run_page, site  # noqa: F401
    from tspin import micro
    from tspin.cli.command import check
    from tspin.micro import task
    from tspin.policy.rates import matmul_rate
    from tspin.selfplay import algorithm  # noqa: F401
    from tspin.tools import terminal  # noqa: F401

    for words in ([], *([f"loss={loss}"] for loss in LOSSES)):
        check([*TINY, *words])
    for kind in (AutoModelForCausalLM, AutoTokenizer):
        kind.from_pretrained(micro.folder("warm"))
    for split in ("train", "test"):
        task.pairs(split, 1, seed=0)
    matmul_rate(torch.device("cpu"), torch.float32)
    render.MANY = 10**6  # processes of a child's own would import everything anew
    # tqdm's own is a semaphore that all children would share: one that is killed would keep it.
    tqdm.set_lock(threading.RLock())
    gc.collect()
    gc.freeze()  # what is here stays, in children too: their collections pass it over
    gc.enable()
    answer = os.fdopen(os.dup(1), "w")
    alive = set()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            result = _ended(job["wait"])
            alive.remove(job["wait"])
        else:
            result = os.fork() or (_python if "words" in job else _child)(job)
            alive.add(result)
        answer.write(f"{json.dumps(result)}\n")
        answer.flush()
    for pid in alive:  # a test failed and left them, maybe stopped
        os.kill(pid, signal.SIGKILL)


def _ended(pid: int) -> int | None:
    """Its exit code; None where it had to be killed because it hangs."""
    deadline = time.monotonic() + HANGS
    while not (status := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(status[1])


def _child(job: dict) -> None:
    with open(job["log"], "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if job["blind"]:  # others fill the disk meanwhile: the stages find it full themselves
        from tspin.planning import disk

        disk.check_room = lambda *args, **kwargs: None
    if job["clock"]:  # it is wrong, another way at every look
        right, wrong = time.time, random.Random(0)
        time.time = lambda: right() + wrong.uniform(-1e5, 1e5)
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


def _python(job: dict) -> None:
    """What the interpreter does with its words. stdout and stderr have a file each."""
    read, write = os.pipe()
    os.write(write, job["typed"].encode())
    os.close(write)
    os.dup2(read, 0)
    sys.stdin = os.fdopen(0)  # the server's is in the middle of its jobs
    for number, kind in ((1, ".out"), (2, ".err")):
        with Path(job["log"]).with_suffix(kind).open("ab") as file:
            os.dup2(file.fileno(), number)
    os.chdir(job["cwd"])
    os.environ |= job["environment"]
    first, *rest = job["words"]
    code = 0
    try:
        if first == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif first == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [first, *rest]
            sys.path.insert(0, str(Path(first).parent))
            runpy.run_path(first, run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1 if stopped.code else 0
        if isinstance(stopped.code, str):
            sys.stderr.write(f"{stopped.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Events:
    """Lists what a child is about to do; at event `at` (number or text) it does as told instead.

    kill  SIGKILL
    tear  SIGKILL in the middle of a write: temporaries lose half, metrics.jsonl the end
    stop  SIGSTOP, until somebody continues or kills it
    term  SIGTERM, and goes on
    """

    def __init__(self, job: dict):
        self.runs, self.at, self.do = job["runs"], job["at"], job["do"]
        self.record = Path(job["log"]).with_suffix(".events")
        self.seen: list[tuple[str, str]] = []  # stage, what
        self.stage = "start"

    def watch(self) -> None:
        import torch.optim.optimizer as optimizer

        from tspin.runs.metrics import StepLog
        from tspin.selfplay import algorithm, session

        algorithm.prepare = self._entering(algorithm.prepare, "prepare")
        for name in ("generate", "evaluate", "score", "train"):
            setattr(session, name, self._entering(getattr(session, name), name))
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
        if self.at in (len(self.seen) - 1, what):
            self.write()
            if self.do == "tear":
                self._tear()
            signals = {"stop": signal.SIGSTOP, "term": signal.SIGTERM}
            os.kill(os.getpid(), signals.get(self.do, signal.SIGKILL))

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
        if path.startswith(self.runs) and "heartbeat.json" not in path:
            done = f"{self.stage.split(':')[0]}: done" if "done.json" in path else None
            self.add(f"{event} {path.removeprefix(self.runs)}", done)

    def _tear(self) -> None:
        for path in Path(self.runs).rglob("*"):
            if ".tmp" in str(path) and path.is_file() and path.stat().st_nlink == 1:
                os.truncate(path, path.stat().st_size // 2)
        if self.seen[-1][1].startswith("appended"):
            files = Path(self.runs).glob("run/iter_*/metrics.jsonl")
            newest = max(files, key=lambda path: path.parent.name)
            os.truncate(newest, newest.stat().st_size - 40)


if __name__ == "__main__":
    serve()
