"""What several benchmarks need: time and memory of this process, rows of a table. No torch."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


def resident(key: str) -> float:
    """Bytes that this process holds (VmRSS), or has held at most (VmHWM); NaN where no Linux tells.

    Not ru_maxrss: that begins with the parent's.
    """
    path = Path("/proc/self/status")
    if not path.exists():
        return float("nan")
    (kib,) = re.findall(rf"{key}:\s+(\d+) kB", path.read_text())
    return 1024 * int(kib)


class Spent(NamedTuple):
    """Seconds of a piece of work: on the clock, and of all CPU cores together."""

    wall: float
    cpu: float

    def since(self, before: Spent) -> Spent:
        return Spent(self.wall - before.wall, self.cpu - before.cpu)


def now() -> Spent:
    """The clock and this process's CPU time, to be subtracted."""
    return Spent(time.perf_counter(), time.process_time())


def busy() -> float:
    """CPU seconds that all processes of the machine have taken; NaN where no Linux tells."""
    path = Path("/proc/stat")
    if not path.exists():
        return float("nan")
    user, nice, system, _, _, interrupts, soft, *_ = map(
        int, path.read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
