"""Memory that a process has let go of."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def give_back() -> None:
    """Returns freed memory to the system where the C library keeps it.

    glibc keeps what lies between blocks that are still in use, for blocks of that size to come;
    torch's and Arrow's memory comes from elsewhere and grows beside it.
    """
    if (trim := _trim()) is not None:
        trim(0)


def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None: this library has none."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
