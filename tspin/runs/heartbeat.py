"""What a run is doing, in its folder: heartbeat.json, written as the work moves. No torch.

A view of the run, never a part of it: nothing is resumed from it, and a beat that cannot be
written (a full disk, a folder that is gone) is left out. Whether the run lives its lock says
(files.held), not this file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, get_type_hints

from tspin.runs.artifacts import RunDir
from tspin.tools import activity
from tspin.tools.log import LONGEST

EVERY = 5.0  # seconds between two beats of a stage that moves


@dataclass(frozen=True)
class Beat:
    """What heartbeat.json holds. Times are in seconds since 1970.

    rate         units per second
    waiting      what another process makes meanwhile, or None
    moved, time  when the last unit was done; when this was written
    ended        how the process left the run: "complete", "failed", "stopped"; None: it has not
    why          of a failure, in one line
    warnings     kind -> in plain words (health), since the run began
    """

    stage: str | None
    done: int
    total: int
    unit: str
    rate: float | None
    waiting: str | None
    moved: float
    time: float
    ended: str | None = None
    why: str | None = None
    warnings: dict[str, str] = field(default_factory=dict)


KINDS = get_type_hints(Beat) | {"moved": int | float, "time": int | float, "warnings": dict}


def read(folder: RunDir) -> Beat | None:
    """The last beat; None where there is none, or none that can be read."""
    try:
        values = json.loads(folder.heartbeat.read_text(encoding="utf-8"))
        beat = Beat(**{name: values[name] for name in KINDS})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return beat if all(isinstance(getattr(beat, f), kind) for f, kind in KINDS.items()) else None


@contextmanager
def beating(folder: RunDir) -> Iterator[None]:
    """Inside, heartbeat.json says what is being done, and behind it how that ended.

    Warnings of earlier launches are kept.
    """
    former = read(folder)
    warnings = {} if former is None else former.warnings
    began, last = time.time(), -EVERY

    def beat(ended: str | None = None, why: str | None = None) -> None:
        nonlocal last
        last, now = time.monotonic(), time.time()
        stage, waiting, new = activity.current()
        work: dict[str, Any] = {"stage": None, "done": 0, "total": 0, "unit": "", "rate": None}
        moved = began
        if stage is not None:
            work = {name: getattr(stage, name) for name in work}
            moved = now - (last - stage.moved)
        own: dict[str, Any] = {"moved": moved, "time": now, "ended": ended, "why": why}
        _write(folder, Beat(**work, waiting=waiting, **own, warnings=new | warnings))

    def listen(at_once: bool) -> None:
        if at_once or time.monotonic() - last >= EVERY:
            beat()

    with activity.listening(listen):
        beat()
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            beat("failed", text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ...")
            raise
        except BaseException:  # an interrupt, or an exit that somebody asked for
            beat("stopped")
            raise
        beat("complete")


def _write(folder: RunDir, beat: Beat) -> None:
    """Not files.atomic: nothing is lost with a beat, so nothing waits for the disk."""
    path = folder.heartbeat
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(asdict(beat)), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a full disk, a folder that is gone: the beat is left out
        with suppress(OSError):
            temporary.unlink()
