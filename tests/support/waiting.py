"""Waiting for an event, never for a time: a busy machine is slow, not wrong."""

import time
from collections.abc import Callable
from subprocess import Popen

SECONDS = 120.0  # what takes longer hangs


def until(
    condition: Callable[[], bool], seconds: float = SECONDS, *, process: Popen | None = None
) -> None:
    """Returns once the condition holds; fails where it does not, or `process` ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline, f"not after {seconds} s"
        time.sleep(0.01)
