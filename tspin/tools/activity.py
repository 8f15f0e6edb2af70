"""What this process is doing now: said by who does it, read by its heartbeat. No torch.

One process does one stage at a time. What is said here costs an assignment: it may be said often.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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


_now: Activity | None = None
_waiting: str | None = None
_warnings: dict[str, str] = {}


def begin(stage: str, unit: str, *, total: int, initial: int) -> None:
    global _now
    now = time.monotonic()
    _now = Activity(stage, unit, total, initial, initial, now, now)


def advance(n: int) -> None:
    """n more units of the stage are done."""
    global _now
    if _now is not None:
        _now = replace(_now, done=_now.done + n, moved=time.monotonic())


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """While another process makes `what`."""
    global _waiting
    _waiting = what
    try:
        yield
    finally:
        _waiting = None


def warn(kind: str, message: str) -> None:
    """What is wrong with the run, in plain words; the first of a kind counts."""
    _warnings.setdefault(kind, message)


def warnings() -> dict[str, str]:
    return dict(_warnings)


def forget() -> None:
    """A new run begins in this process."""
    global _now
    _now = None
    _warnings.clear()


def current() -> tuple[Activity | None, str | None]:
    """The stage, and what is waited for."""
    return _now, _waiting
