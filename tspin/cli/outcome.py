"""How a command ends: what its user, or the world, can mend is one line, and an exit code says the
rest.

A fault of ours shows its traceback. Of what a library or the system raises the line says where,
which kind and its first line; the traceback is kept in a file, for who reports it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn

from tspin.tools import signals
from tspin.tools.log import kind_and_line

if TYPE_CHECKING:
    from tspin.config.run import Run
    from tspin.runs.artifacts import RunDir

INTERRUPTED = 130
OURS = ("tspin", "analysis", "hydra_plugins", "main", "__main__")
MENDABLE = (ValueError, OSError, FloatingPointError, MemoryError)
FAULTS = (TypeError, AssertionError, AttributeError, NameError, LookupError)
LIBRARIES = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
PYTHON = (sysconfig.get_path("stdlib"), "<frozen")

log = logging.getLogger("tspin")


def configure_logging() -> None:
    """Messages of ours on stderr as they are; of others warnings alone."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)


# --- by command ----------------------------------------------------------------------------------


def refuse(error: Exception) -> NoReturn:
    """Ends main.py before anything has begun. A fault of ours goes on, as Ctrl-C does."""
    if is_interrupt(error) or not is_mendable(error):
        raise error
    log.error("error: %s", one_line(error))
    sys.exit(2)


def exit_code(error: Exception | KeyboardInterrupt, command: Sequence[str] = ()) -> int:
    """Of a verb, or a command of analysis; writes the one line. A fault of ours goes on.

    command  its words: the first one, and the run (run=, runs=) say where
    """
    if is_interrupt(error):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return nobody_reads()
    if not is_mendable(error):
        raise error
    words = [*command[:1], *(word for word in command[1:] if word.startswith(("run=", "runs=")))]
    sys.stderr.write(f"error: {one_line(error, where=' '.join(words))}\n")
    return 1


def nobody_reads() -> int:
    """-> exit code where who was written to has gone (`... | head`): as a shell says it."""
    # What is still to be written goes nowhere, or Python would fail once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


@dataclass
class Work:
    """What is going on. run: once it is known"""

    run: Run | None = None


@contextmanager
def of_work(*, single: bool) -> Iterator[Work]:
    """Around what main.py does. single: a run by itself or a whole sweep, no point of a sweep"""
    work = Work()
    try:
        yield work
    except signals.Preempted as stopped:
        log.error("stopped by %s; the same command goes on from here", stopped)
        sys.exit(signals.leave())  # of a multirun too
    except (Exception, KeyboardInterrupt) as error:
        if is_interrupt(error):
            log.error("interrupted; the same command goes on from here")
            sys.exit(INTERRUPTED)  # likewise
        if is_mendable(error):
            where, folder = "", None
            if work.run is not None:
                from tspin.runs.artifacts import RunDir  # pyarrow: not for --help of a verb

                where, folder = work.run.name, RunDir(work.run.folder)
            line = one_line(error, where=where, folder=folder)
            log.error("error: %s", line)
            if single:
                sys.exit(1)
            # Hydra goes on with the other points and exits with 1 in the end. Errors of libraries
            # may not pass from one process to another.
            raise (error if _is_sentence(error) else ValueError(line)) from None
        if not single:  # of a single run Hydra shows the traceback
            log.error("error: %s", error, exc_info=error)
        raise


# --- by kind and place ---------------------------------------------------------------------------


def is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C, or an import that Ctrl-C ended: of compiled modules (matplotlib's,
    numpy's) that is an ImportError, with the interrupt as its cause."""
    cause: BaseException | None = error
    while isinstance(cause, ImportError):
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, KeyboardInterrupt)


def is_mendable(error: BaseException) -> bool:
    """Whether a user, or the world, is the cause: by its kind, and by whose code raised it.

    Of a kind that a slip of ours raises (a key, a type), a library's own code has to raise it.
    """
    if isinstance(error, MENDABLE):
        return True
    if isinstance(error, ImportError):  # to be installed, unless it is ours
        return (error.name or "").split(".")[0] not in OURS
    if isinstance(error, FAULTS):
        return _raised_by(error) == "library"
    return _is_foreign(error) or _raised_by(error) != "us"


def one_line(error: BaseException, *, where: str = "", folder: RunDir | None = None) -> str:
    """What happened: our own sentence, or place, kind and first line of what others raised.

    where   the run or the command
    folder  of the run, which keeps the traceback; without one a temporary file does
    """
    if _is_sentence(error):
        return " ".join(str(error).split())
    frames = [frame for frame in _frames(error.__traceback__) if _is_ours(frame)]
    line = ": ".join(filter(None, [where, _stage(frames), kind_and_line(error)]))
    file = _file(frames)
    if file is not None and str(file) not in line:
        line += f" (at {file})"
    kept = _keep(error, folder)
    return line if kept is None else f"{line} (traceback: {kept})"


def _is_sentence(error: BaseException) -> bool:
    """Whether it was raised by us, with a message that says all there is to say."""
    if isinstance(error, UnicodeError) or (isinstance(error, OSError) and error.errno is not None):
        return False
    own = isinstance(error, MENDABLE) and not _is_foreign(error) and bool(str(error).strip())
    return own and _raised_by(error) == "us"


def _is_foreign(error: BaseException) -> bool:
    """Whether its kind is a library's."""
    return type(error).__module__.split(".")[0] not in ("builtins", *OURS)


def _raised_by(error: BaseException) -> Literal["us", "library", "python"]:
    """Whose code raised it; modules that a user brings count as ours: they are shown."""
    frames = _frames(error.__traceback__)
    if not frames or _is_ours(frames[-1]):
        return "us"
    # Compiled modules know their own file, and not that of a frame.
    file = str(frames[-1].f_globals.get("__file__") or frames[-1].f_code.co_filename)
    if file.startswith(LIBRARIES):
        return "library"
    return "python" if file.startswith(PYTHON) else "us"


def _frames(trace: TracebackType | None) -> list[FrameType]:
    """From the outermost to the one that raised."""
    return [frame for frame, _ in traceback.walk_tb(trace)]


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in OURS


def _stage(frames: Sequence[FrameType]) -> str | None:
    """What people call it: `label` of the stages and of who calls them, or the stage's module."""
    for frame in reversed(frames):
        module = str(frame.f_globals["__name__"])
        label = frame.f_locals.get("label")
        if module.startswith(("tspin.stages.", "tspin.selfplay.")) and isinstance(label, str):
            return label
    modules = [str(frame.f_globals["__name__"]) for frame in frames]
    stages = [name for name in modules if name.startswith("tspin.stages.")]
    return stages[-1].rsplit(".", 1)[-1] if stages else None


def _file(frames: Sequence[FrameType]) -> Path | None:
    """The file that our innermost function was at, where it knows a single one."""
    if not frames:
        return None
    values = frames[-1].f_locals.values()
    files = {value for value in values if isinstance(value, Path) and value.is_file()}
    return files.pop() if len(files) == 1 else None


def _keep(error: BaseException, folder: RunDir | None) -> Path | None:
    """Where the traceback was written; None where nothing can be (a full disk)."""
    text = "".join(traceback.format_exception(error))
    if folder is not None and folder.path.is_dir():
        try:
            with folder.errors.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
            return folder.errors
        except OSError:  # not ours to write, or full: elsewhere
            pass
    try:
        handle, name = tempfile.mkstemp(prefix="tspin-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return Path(name)
