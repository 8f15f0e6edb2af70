"""Checks for the runner of benchmarks.gpu_check: those that end well, badly and not at all."""

import os
import signal
import subprocess
import threading
from pathlib import Path

from benchmarks.gpu_check.results import Outcome, Skip


def passes(setting):
    yield Outcome("one", "pass", {"pid": os.getpid()})
    yield Outcome("two", "fail", {"nats": 0.5}, "2 is not 1")


def raises(setting):
    yield Outcome("one", "pass")
    raise RuntimeError("no such\nkernel")


def skips(setting):
    yield Outcome("one", "pass")
    raise Skip("there is no card")


def dies(setting):
    yield Outcome("one", "pass")
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(setting):
    """It and a process of its own wait for what does not come."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    Path(setting.folder / "child").write_text(str(child.pid))
    yield Outcome("one", "pass", {"child": child.pid})
    threading.Event().wait()
