"""A check in a process of its own: it may hang, be killed or lose its device. No torch."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.gpu_check.results import Line, Outcome, Skip
from benchmarks.gpu_check.setting import Setting
from tspin.tools.files import remove

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "WANDB_MODE": "disabled",
}
LAST = 200  # characters of an error in the table; the log has all of it
PATIENCE = 30.0  # seconds in which a killed process gives its device back


@dataclass(frozen=True)
class Check:
    """A generator function and the seconds it may take, libraries and CUDA's start included.

    name      as the table and --only have it
    function  MODULE:NAME, imported by the process of the check
    """

    name: str
    function: str
    seconds: float

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]

    def outcomes(self, setting: Setting) -> Iterator[Outcome]:
        name = self.function.partition(":")[2]
        function: Callable[[Setting], Iterator[Outcome]]
        function = getattr(importlib.import_module(self.module), name)
        return function(setting)


def run(check: Check, setting: Setting) -> Iterator[Line]:
    """The lines of one check, each as soon as it is there. Never raises for what the check does."""
    remove(setting.folder)  # of an earlier call, whose runs would be complete
    setting.folder.mkdir(parents=True)
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, ours, check, setting))
    began = last = time.monotonic()
    process.start()
    theirs.close()  # else nobody would see that the process has ended
    try:
        while True:
            left = began + check.seconds - time.monotonic()
            if not ours.poll(max(left, 0.0)):
                reason = f"not done after its {check.seconds:g} s; killed ({_log(setting)})"
                yield Line(check.name, Outcome("time", "fail", reason=reason), check.seconds)
                return
            try:
                outcome: Outcome | None = ours.recv()
            except EOFError:
                process.join(PATIENCE)
                outcome = Outcome("process", "fail", reason=_end(process.exitcode, setting))
                yield Line(check.name, outcome, time.monotonic() - last)
                return
            if outcome is None:
                return
            now = time.monotonic()
            yield Line(check.name, outcome, now - last)
            last = now
    finally:
        ours.close()
        _stop(process.pid)
        process.join(PATIENCE)


def _stop(pid: int | None) -> None:
    """Kills the process and what it has started; it leads a session of its own."""
    assert pid is not None
    for kill, whom in ((os.killpg, pid), (os.kill, pid)):
        with suppress(ProcessLookupError, PermissionError):
            kill(whom, signal.SIGKILL)


def _end(code: int | None, setting: Setting) -> str:
    how = "did not end" if code is None else f"ended with {code}"
    hint = " (killed: out of memory?)" if code == -signal.SIGKILL else ""
    return f"its process {how}{hint} ({_log(setting)})"


def _log(setting: Setting) -> Path:
    return setting.folder / "log.txt"


def _serve(pipe: Connection, theirs: Connection, check: Check, setting: Setting) -> None:
    """The process: sends outcomes, None after the last."""
    os.setsid()
    theirs.close()
    log = os.open(_log(setting), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    os.environ.update(ENVIRONMENT)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    try:
        for outcome in check.outcomes(setting):
            pipe.send(outcome)
    except Skip as reason:
        pipe.send(Outcome("all", "skipped", reason=str(reason)))
    except BaseException as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {' '.join(str(error).split()):.{LAST}}"
        pipe.send(Outcome("error", "fail", reason=f"{text} ({_log(setting)})"))
    pipe.send(None)
