"""A sign of life in the folder of a run: heartbeat.json, replaced every few seconds. No torch.

A view of the run, never a part of it: nothing is resumed from it, and a beat that cannot be
written (a full disk, a folder that is gone) is left out. A thread beats, so that loading, saving
and waiting are life too; `moved` says when the work itself last moved.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from tspin.runs.artifacts import RunDir
from tspin.tools import activity
from tspin.tools.files import remove

log = logging.getLogger("tspin")
BEAT = 5.0  # seconds between two beats
LOST = 120.0  # seconds without one: dead, where the process cannot be asked for
LONGEST = 400  # characters of a reason


@dataclass(frozen=True)
class Beat:
    """What heartbeat.json holds. Times are in seconds since 1970.

    rate         units per second
    waiting      what another process makes meanwhile, or None
    moved, time  when the last unit was done; when this was written
    host, space  the machine, and what tells its boots and containers apart: pid is of there
    born         when the process began, as the kernel counts: told from later ones of its number
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
    host: str
    space: str
    pid: int
    born: str | None
    ended: str | None = None
    why: str | None = None
    warnings: dict[str, str] = field(default_factory=dict)

    def alive(self, now: float) -> bool:
        """Whether its process is there still; of one that cannot be asked for, by the last beat."""
        if self.ended is not None:
            return False
        if (self.host, self.space) == _here():
            state, born = _process(self.pid)
            return state not in (None, "Z", "X") and born == self.born
        return now - self.time <= LOST


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("done", "total", "pid"), (int,)),
    **dict.fromkeys(("moved", "time"), (int, float)),
    **dict.fromkeys(("unit", "host", "space"), (str,)),
    **dict.fromkeys(("stage", "waiting", "born", "ended", "why"), (str, type(None))),
    "rate": (int, float, type(None)),
    "warnings": (dict,),
}


def read(folder: RunDir) -> Beat | None:
    """The last beat; None where there is none, or none that can be read."""
    try:
        found = json.loads(folder.heartbeat.read_text(encoding="utf-8"))
        beat = Beat(**{f.name: found[f.name] for f in fields(Beat)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return beat if all(isinstance(getattr(beat, f), kinds) for f, kinds in _KINDS.items()) else None


class Heart:
    """Beats for one run of this process. Warnings of its earlier launches are kept."""

    def __init__(self, folder: RunDir) -> None:
        self._folder = folder
        before = read(folder)
        self._warnings = {} if before is None else before.warnings
        self._host, self._space = _here()
        self._born = _process(os.getpid())[1]
        self._started = time.time()
        activity.forget()

    def beat(self, ended: str | None = None, why: str | None = None) -> None:
        doing, waiting = activity.current()
        now = time.time()
        moved = self._started if doing is None else now - (time.monotonic() - doing.moved)
        beat = Beat(
            stage=None if doing is None else doing.stage,
            done=0 if doing is None else doing.done,
            total=0 if doing is None else doing.total,
            unit="" if doing is None else doing.unit,
            rate=None if doing is None else doing.rate,
            waiting=waiting,
            moved=moved,
            time=now,
            host=self._host,
            space=self._space,
            pid=os.getpid(),
            born=self._born,
            ended=ended,
            why=why,
            warnings=activity.warnings() | self._warnings,
        )
        path = self._folder.heartbeat
        temporary = path.with_name(f".{path.name}.tmp")
        try:  # not files.atomic: nothing is lost with a beat, so nothing waits for the disk
            temporary.write_text(json.dumps(asdict(beat)), encoding="utf-8")
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                remove(temporary)


@contextmanager
def beating(folder: RunDir, *, every: float = BEAT) -> Iterator[None]:
    """Beats until the block ends, then says how it ended."""
    heart = Heart(folder)
    heart.beat()
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every):
            heart.beat()

    thread = threading.Thread(target=work, daemon=True, name="heartbeat")
    thread.start()
    ended: tuple[str, str | None] = ("complete", None)
    try:
        yield
    except Exception as error:
        ended = ("failed", _reason(error))
        raise
    except BaseException:  # an interrupt, or an exit that somebody asked for
        ended = ("stopped", None)
        raise
    finally:
        stop.set()
        thread.join()
        heart.beat(*ended)


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 4]} ..."


def _here() -> tuple[str, str]:
    """Host name; boot and process namespace, as far as the system tells them."""
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return socket.gethostname(), " ".join(parts)


def _process(pid: int) -> tuple[str | None, str | None]:
    """State (a letter of Linux; None: there is no such process) and birth of a process here."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        words = text.rsplit(")", 1)[1].split()
        return words[0], words[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None, None
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return None, None
    except PermissionError:
        pass
    return "R", None
