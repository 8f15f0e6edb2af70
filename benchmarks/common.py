"""What several benchmarks need: memory of this process, rows of a Markdown table. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def resident(key: str) -> float:
    """Bytes that this process holds (VmRSS), or has held at most (VmHWM); NaN where no Linux tells.

    Not ru_maxrss: that begins with the parent's.
    """
    path = Path("/proc/self/status")
    if not path.exists():
        return float("nan")
    (kib,) = re.findall(rf"{key}:\s+(\d+) kB", path.read_text())
    return 1024 * int(kib)


def row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
