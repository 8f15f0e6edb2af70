"""When the machine is wanted back: stop where least is lost, leave with a code that requeues.

A scheduler says so with a signal. Where stopping later would save nothing it is at once, as with
Ctrl-C: every file is complete or absent. In a `held` block it waits for the next boundary, that is
the end of an optimiser step or of a part of samples, for `compute.grace_seconds` at most.

Requeued is the same command. Who has to ask for that differs: see `leave`. No torch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: not done, try again
# Slurm, Kubernetes, spot machines; sbatch --signal, by custom; submitit.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Preempted(BaseException):
    """Not an Exception: who handles failures must not take it for one."""


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
    """Until its end, stopping waits for whoever calls `boundary` or `stop_if_requested`."""
    _watch.held = True
    try:
        yield
    finally:
        _watch.held = False
    stop_if_requested()


def boundary() -> bool:
    """Whether to save and stop here. The grace is over with it: saving takes what it takes."""
    if _watch.received is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return _watch.received is not None


def stop_if_requested() -> None:
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
