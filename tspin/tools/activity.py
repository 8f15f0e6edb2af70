"""What this process is doing now, kept in one place for whoever shows it. No torch.

One process does one stage at a time. Reporting costs an assignment and a call: it may be often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Activity:
    """A stage under way, or the last one that was.

    initial       units done before this process began: they count as done, not towards the rate
    began, moved  monotonic seconds: when it began, when its last unit was done
    """

    stage: str
    unit: str
    total: int
    initial: int
    done: int
    began: float
    moved: float

    @property
    def rate(self) -> float | None:
        """Units per second until the last one that was done; None before there is one."""
        seconds = self.moved - self.began
        return (self.done - self.initial) / seconds if seconds > 0 else None


Listener = Callable[[bool], None]  # whether it is more than one more unit: to be shown at once

_now: Activity | None = None
_waiting: str | None = None
_warnings: dict[str, str] = {}
_listener: Listener | None = None


def begin(stage: str, unit: str, *, total: int, initial: int) -> None:
    global _now
    now = time.monotonic()
    _now = Activity(stage, unit, total, initial, initial, now, now)
    _notify(True)


def advance(n: int) -> None:
    """n more units of the stage are done."""
    global _now
    if _now is not None:
        _now = replace(_now, done=_now.done + n, moved=time.monotonic())
        _notify(_now.done >= _now.total)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """While another process makes `what`."""
    global _waiting
    _waiting = what
    _notify(True)
    try:
        yield
    finally:
        _waiting = None
        _notify(True)


def warn(kind: str, message: str) -> None:
    """What is wrong with the run, in plain words; the first of a kind counts."""
    _warnings.setdefault(kind, message)
    _notify(True)


def current() -> tuple[Activity | None, str | None, dict[str, str]]:
    """The stage, what is waited for, and the warnings so far."""
    return _now, _waiting, dict(_warnings)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """A new run begins in this process: inside, `listener` is called at every change."""
    global _now, _listener
    _now, _listener = None, listener
    _warnings.clear()
    try:
        yield
    finally:
        _listener = None


def _notify(at_once: bool) -> None:
    if _listener is not None:
        _listener(at_once)
