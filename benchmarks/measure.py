"""Ways of doing the same work, each in a process of its own, taking turns round by round.

A round is the same examples for every way, so that a slow minute of the machine meets all of them,
and its peak of memory is a process's own. The settings of the processes are one table here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.shapes import Case, flops
from tspin.triplets import num_tokens

ENVIRONMENT = {
    # Else glibc gives large blocks back at every step, and who allocates most pays most.
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
NEEDS = {"trl_precomputed": "trl", "trl_live": "trl", "glued": "trl"}  # ways -> libraries
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "numpy")
MIB = 2**20


@dataclass
class Result:
    """What was measured of a case.

    seconds  way -> one number a round
    memory   way -> MiB: "extra" above what model and optimiser take before the first step, "peak"
             of the process (CUDA: of what torch allocated there)
    skipped  way -> why
    tokens   of every round, as triplets.num_tokens counts them
    flops    of every round, see shapes.flops
    """

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)


def measure(case: Case, *, threads: int) -> Result:
    """Runs every way of the case that can be run. Raises RuntimeError for one that fails."""
    result = Result(case)
    for way in case.ways:
        library = NEEDS.get(way)
        if library and importlib.util.find_spec(library) is None:
            result.skipped[way] = f"{library} is not installed"
    todo = [way for way in case.ways if way not in result.skipped]
    for together in [[way] for way in todo] if case.alone else [todo]:
        with _environment(ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}):
            workers = {way: _Worker(case, way) for way in together}
        try:
            for way, worker in workers.items():
                worker.expect("ready")
                result.seconds[way] = []
            for seed in range(case.rounds):
                turns = list(workers)[::-1] if seed % 2 else list(workers)
                for way in turns:
                    result.seconds[way].append(workers[way].ask(seed))
            for way, worker in workers.items():
                result.memory[way] = worker.ask(None)
        finally:
            for worker in workers.values():
                worker.stop()
    for seed in range(case.rounds if case.kind not in ("rows", "matmul") else 0):
        triplets = case.triplets(seed)
        result.tokens.append(num_tokens(triplets, case.roles))
        result.flops.append(flops(case.model_shape, triplets, case.roles))
    return result


def machine(device: str, *, threads: int) -> dict[str, str]:
    """What the figures belong to."""
    import torch

    found = {name: metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    found["processor"] = names[0] if names else "unknown"
    if device == "cuda":
        found["card"] = torch.cuda.get_device_name()
    settings = {k: v for k, v in ENVIRONMENT.items() if k.startswith("MALLOC")}
    return found | {"threads": str(threads)} | settings


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """What the server begins with, when the first process is started, and all of them after it."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Worker:
    """The parent's end of a process that works in one way."""

    def __init__(self, case: Case, way: str) -> None:
        self.what = f"{case.name}, {way}"
        # From a server that has imported everything and computed nothing: no start-up each time.
        context = get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.ways"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, case, way), daemon=True)
        self.process.start()
        theirs.close()  # else nobody would see that the process has ended

    def ask(self, seed: int | None) -> Any:
        """The seconds of the round; for None, the last question, the memory it all took."""
        self.pipe.send(seed)
        return self.expect("round" if seed is not None else "memory")

    def expect(self, kind: str) -> Any:
        try:
            found, value = self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(
                f"{self.what}: the process ended with {code} (-9: out of memory)"
            ) from None
        if found != kind:
            raise RuntimeError(f"{self.what}: {value}")
        return value

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(timeout=10)
        self.process.kill()


def _serve(pipe: Connection, case: Case, way: str) -> None:
    """The process: one way, from its first import to its peak of memory."""
    try:
        from benchmarks.ways import WAYS

        work = WAYS[way](case)
        rest = _now(case)
        # On a GPU everything is slow the first time; here a single example warms libraries up.
        warm = case.triplets(0)
        work(warm if case.device == "cuda" else warm[:1])
        pipe.send(("ready", None))
        while (seed := pipe.recv()) is not None:
            pipe.send(("round", work(case.triplets(seed))))
        peak = _peak(case)
        pipe.send(("memory", {"extra": peak - rest, "peak": peak}))
    except EOFError:
        pass  # the parent has gone
    except Exception:
        pipe.send(("error", traceback.format_exc()))


def clock(case: Case) -> float:
    if case.device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def _now(case: Case) -> float:
    """MiB that the process holds."""
    if case.device == "cuda":
        import torch

        return torch.cuda.memory_allocated() / MIB
    return _status("VmRSS")


def _peak(case: Case) -> float:
    """MiB that it held at most. Linux's VmHWM: ru_maxrss begins with the parent's."""
    if case.device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / MIB
    return _status("VmHWM")


def _status(key: str) -> float:
    path = Path("/proc/self/status")
    if not path.exists():  # no Linux
        return float("nan")
    (kib,) = re.findall(rf"{key}:\s+(\d+) kB", path.read_text())
    return int(kib) / 1024
