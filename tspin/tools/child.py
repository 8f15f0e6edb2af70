"""A process of this or of another interpreter that talks in messages: both ends of its pipes.

The parent has `started`, the child `serve`; or this file is the child's program, and serves the
`respond` of a script (`serving`). Messages are JSON lines on the child's standard input
and output; whatever its libraries print goes to standard error, a log. The child ends when its
standard input does: with the parent, however that ends. The standard library alone is imported:
the child may live in an environment that has nothing of ours.
"""

from __future__ import annotations

import io
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

ORDERLY_SECONDS = 30.0  # for an end that leaves no shared memory behind
LONGEST = 500  # characters of a failure
# What torchrun, accelerate, mpirun and srun tell each process of its place among the others: these
# names, and all that begin so.
RANK_NAMES = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"),
    *("GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS", "PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS"),
    *("SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
}
RANK_PREFIXES = (
    *("MASTER_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_"),
    *("OMPI_", "PMIX_", "MV2_COMM_WORLD_", "SLURM_STEP_"),
)

Receive = Callable[[], Any]
Send = Callable[[Any], None]


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is alone, whatever launcher started this one.

    A library that is told of other ranks (accelerate, which lm-eval loads; vLLM) waits for them,
    and they never come.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in RANK_NAMES and not name.startswith(RANK_PREFIXES)
    }


def as_here() -> dict[str, str]:
    """The environment of a process of this interpreter that is alone and finds every module that
    this one does, a user's own too."""
    return without_ranks(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Child:
    """A process, seen by its parent."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def send(self, message: Any) -> None:
        """To a process that has ended nothing is sent: `messages` end then."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def messages(self) -> Iterator[Any]:
        """What it sends, until it ends."""
        assert self.process.stdout is not None
        return map(json.loads, self.process.stdout)

    def death(self, name: str) -> str | None:
        """How it ended, in a line that calls it `name`; None: as it should."""
        status = self.process.wait()
        if status >= 0:
            return f"{name} ended with status {status}" if status else None
        cause = signal.Signals(-status).name
        hint = ", as when memory runs out" if cause == "SIGKILL" else ""
        return f"{name} was ended by {cause}{hint}"


@contextmanager
def started(
    command: Sequence[str], *, log: IO[bytes], environment: Mapping[str, str]
) -> Iterator[Child]:
    """A process; it and its children end with this block. log: its standard error"""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C is ours to act on
    ) as process:
        try:
            yield Child(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(ORDERLY_SECONDS)
        finally:
            with suppress(ProcessLookupError):  # ended by itself, with its children
                os.killpg(process.pid, signal.SIGKILL)
            process.stdin = None  # may hold what a dead process never read


def serving(python: str, script: str) -> list[str]:
    """The command of a process that serves the script's respond(receive, send)."""
    return [python, __file__, script]


def serve(work: Callable[[Receive, Send], None]) -> None:
    """The child's end. A failure of `work` is its last message, {"failed": sentence}."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):  # the log has what was printed however this ends
        sys.stdout.reconfigure(line_buffering=True)
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(messages,), daemon=True).start()

    def send(message: Any) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    try:
        work(messages.get, send)
    except Exception as failure:
        traceback.print_exc()
        text = f"{type(failure).__name__}: {' '.join(str(failure).split()):.{LONGEST}}"
        send({"failed": text.removesuffix(": ")})
        sys.exit(1)


def _receive(messages: queue.SimpleQueue[Any]) -> None:
    """The end of standard input is the end of this process and of its children."""
    with os.fdopen(os.dup(0), encoding="utf-8") as stream:  # sys.stdin's lock stops an orderly exit
        for line in stream:
            messages.put(json.loads(line))
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path != own]  # where `import` would find ours
    serve(runpy.run_path(sys.argv[1])["respond"])
