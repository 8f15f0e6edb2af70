"""metrics.jsonl, the record of training: one JSON object per optimiser step. No torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tspin.tools.files import room_for, whole, write_text


class StepLog(AbstractContextManager["StepLog"]):
    """metrics.jsonl of one iteration: one JSON object per optimiser step, in order.

    path         the file; its folder is made if it is not there.
    resume_from  the step (0-based) that is appended next. Rows from it on are cut away first, so
                 that a run killed and resumed leaves the same file as one never interrupted.
                 0 starts afresh.
    """

    def __init__(self, path: Path, *, resume_from: int = 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_back(path, resume_from)
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; it survives this process, not a power cut (no fsync per row).

        ValueError for a number that is not finite.
        """
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"metric {key!r} is {value} at step {row['step']}; metrics must be finite: "
                    "training has diverged, resume from the last saved step with a lower optim.lr"
                )
        with room_for(self._path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Force the rows to disk; called before a training state that counts on them is saved."""
        os.fsync(self._file.fileno())

    def __exit__(self, *exc_info: object) -> None:
        with room_for(self._path):  # what a full disk did not take is tried once more
            self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """The complete rows of metrics.jsonl; a last line still being written is left out."""
        with whole(path):
            return [json.loads(line) for line in _complete_lines(path)]


def _cut_back(path: Path, step: int) -> None:
    """Keep the rows before `step`, atomically: a crash leaves the old file or the new one."""
    if not path.exists():
        return
    with whole(path):
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] < step]
    write_text(path, "".join(kept))


def _complete_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:  # a kill can split a character
        # Only the last line can lack its newline: it was being written when the process died.
        return [line for line in file if line.endswith("\n")]
