"""When the machine is wanted back: stop where least is lost, leave with a code that requeues.

A scheduler says so with a signal. Where stopping later would save nothing it is at once, as with
Ctrl-C: every file is complete or absent. In a `held` block it waits for the next boundary, that is
the end of an optimiser step or of a part of samples, for `compute.grace_seconds` at most.

Requeued is the same command. Who has to ask for that differs: see `leave`. No torch.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: not done, try again
# Slurm, Kubernetes, spot machines; sbatch --signal, by custom; submitit.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
TELL_SECONDS = 0.2  # between two looks at who of our workers has begun to listen


class Preempted(BaseException):
    """Not an Exception: who handles failures must not take it for one."""


class Stopped(Exception):
    """What it becomes where other points of a sweep share the process: an outcome of one."""


@dataclass
class _Watch:
    """Signals are the process's, and so is what is known of them."""

    grace = 0.0  # seconds
    received: int | None = None
    held = False
    left = False  # Preempted is on its way: further signals must not disturb the clean-up
    former: dict[int, Any] = field(default_factory=dict)  # signal -> its handler before ours


_watch = _Watch()


@contextmanager
def watched(grace: float) -> Iterator[None]:
    """Inside, a signal of SIGNALS becomes Preempted: at once, or as `held` says.

    grace  seconds that a held block has after the signal
    Outside of the main thread, which alone may receive signals, it does nothing. Raises Preempted
    in a process that was preempted before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _watch.left:  # in this process nothing begins any more
        raise Preempted(_name())
    _watch.grace, _watch.received, _watch.held = grace, None, False
    alarm = signal.signal(signal.SIGALRM, lambda *_: stop())
    _watch.former = {number: signal.signal(number, _receive) for number in SIGNALS}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        if not _watch.left:  # else they are ignored until the process ends
            for number, handler in _watch.former.items():
                signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Until its end, stopping waits for whoever asks `boundary` or `stop_if_asked`."""
    _watch.held = True
    try:
        yield
    finally:
        _watch.held = False
    stop_if_asked()


def boundary() -> bool:
    """Whether to save and stop here. The grace is over with it: saving takes what it takes."""
    if _watch.received is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return _watch.received is not None


def stop_if_asked() -> None:
    if boundary():
        stop()


def stop() -> None:
    """Raises Preempted, once."""
    if not _watch.left:
        _watch.left = True
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Preempted(_name())


def leave() -> int:
    """What is left to do once everything is let go of. -> the exit code

    A job of submitit ends here. Its own handler writes it down and requeues it; on Slurm not for
    SIGTERM, which scancel sends too: what Slurm preempts, Slurm requeues itself.
    """
    executor = os.environ.get("SUBMITIT_EXECUTOR")
    if executor is None:
        return REQUEUE
    by_name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")  # what submitit asks, too
    usual = signal.Signals[f"SIG{by_name}"]
    received, requeue = _watch.received or usual, _watch.former.get(usual)
    if callable(requeue) and not (executor == "slurm" and received == signal.SIGTERM):
        requeue(received, None)
    # No result: to submitit the job is not over.
    sys.exit(REQUEUE)


@contextmanager
def passed_on() -> Iterator[None]:
    """Inside, a signal goes to the processes that work for this one (joblib's) once they `watched`.

    One that works on nothing, or not yet, would be killed by it, and its executor then kills the
    others while they save.
    """
    received: list[int] = []
    done = threading.Event()

    def tell() -> None:
        while not done.wait(TELL_SECONDS):
            for process in multiprocessing.active_children() if received else []:
                if process.pid is not None and _listens(process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, received[0])

    former = {n: signal.signal(n, lambda number, _: received.append(number)) for n in SIGNALS}
    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        done.set()
        telling.join()
        for number, handler in former.items():
            signal.signal(number, handler)


def _listens(pid: int) -> bool:
    """Whether a process has a handler for SIGUSR1, which nobody else in Python has.

    Without /proc it is not known and taken to be so.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return not Path("/proc/self/status").exists()
    (caught,) = re.findall(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


def _receive(number: int, frame: FrameType | None) -> None:
    if _watch.received is not None:  # schedulers repeat themselves, maybe while we save
        return
    _watch.received = number
    if _watch.held:
        # At least a moment: 0 would set no alarm at all.
        signal.setitimer(signal.ITIMER_REAL, max(_watch.grace, 1e-3))
    else:
        stop()


def _name() -> str:
    return signal.Signals(_watch.received).name if _watch.received else "another process"
