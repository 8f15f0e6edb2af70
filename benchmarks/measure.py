"""Ways of doing the same work, each in a process of its own, taking turns round by round.

A round is the same examples for every way, so that a slow minute of the machine meets all of them,
and its peak of memory is a process's own. The settings of the processes are one table here.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.reading.stats import mean_interval
from benchmarks import parts, rivals
from benchmarks.common import Spent, busy, now, resident
from benchmarks.shapes import Case, flops
from tspin.data.triplets import Triplet, num_tokens

ENVIRONMENT = {
    # Where glibc's own thresholds end up after some steps. Fixed from the start, times do not
    # depend on what was allocated before; higher, a peak would count holes that nothing fits into.
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
NEEDS = {"trl_precomputed": "trl", "trl_live": "trl", "glued": "trl"}  # ways -> libraries
TAKEN_APART = {"ours": "float32", "bfloat16": "bfloat16"}  # ways -> dtype of their products
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "numpy")
MIB = 2**20
FEWEST, NARROW = 3, 0.05  # rounds at least; how far a ratio's interval may reach
LONG = 60.0  # seconds of the rounds of ways that take turns, after which FEWEST are enough
WARM_UP, LAST = -1, -2  # what a process is asked beside the numbers of rounds
FAILED = "failed"
log = logging.getLogger("benchmarks")


class Round(NamedTuple):
    """A round of a way. others: cores that other processes kept busy meanwhile"""

    spent: Spent
    others: float


@dataclass
class Result:
    """What was measured of a case.

    seconds  way -> one number a round
    cpu      way -> CPU seconds of the same, of all cores
    others   cores that other processes kept busy, of every round and way
    memory   way -> MiB: "extra" above what model and optimiser take before the first step, "peak"
             of the process (CUDA: of what torch allocated there)
    parts    way -> seconds of each part of a step (parts.PARTS), and of its products alone
    skipped  way -> why
    tokens   of every round, as triplets.num_tokens counts them
    flops    of every round, see shapes.flops
    """

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)


def measure(case: Case, *, threads: int) -> Result:
    """Runs every way of the case. One that cannot be run, or fails on the way, says why."""
    result = Result(case)
    for way in case.ways:
        if (why := _lacking(way)) is not None:
            result.skipped[way] = why
    todo = [way for way in case.ways if way not in result.skipped]
    for together in [[way] for way in todo] if case.alone else [todo]:
        with _environment(ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}):
            workers = {way: _Worker(case, way) for way in together}
        spent: dict[str, list[Round]] = {way: [] for way in together}
        question = WARM_UP
        for number in range(case.rounds + 2):
            # There and back again: nobody is always the first.
            for way in list(workers)[:: -1 if number % 2 else 1]:
                try:
                    answer = workers[way].ask(question)
                except RuntimeError as error:
                    log.error("%s, %s: %s", case.name, way, error)
                    reason = str(error).strip().splitlines()[-1]
                    result.skipped[way] = f"{FAILED}: {reason}"
                    workers.pop(way).stop()
                    continue
                if question == LAST:
                    result.memory[way], apart = answer
                    result.parts |= {way: apart} if apart else {}
                    workers.pop(way).stop()
                elif question != WARM_UP:
                    spent[way].append(answer)
            if question == LAST:
                break
            settled = is_settled([[it.spent.wall for it in spent[way]] for way in workers])
            question = LAST if number == case.rounds or settled else number
        measured = {way: rounds for way, rounds in spent.items() if way in result.memory}
        result.seconds |= {way: [it.spent.wall for it in of] for way, of in measured.items()}
        result.cpu |= {way: [it.spent.cpu for it in of] for way, of in measured.items()}
        result.others += [it.others for of in measured.values() for it in of]
    num_rounds = max(map(len, result.seconds.values()), default=0)
    for seed in range(num_rounds if case.kind not in ("rows", "matmul") else 0):
        triplets = case.triplets(seed)
        result.tokens.append(num_tokens(triplets, case.roles))
        result.flops.append(flops(case.model_shape, triplets, case.roles))
    return result


def _lacking(way: str) -> str | None:
    """Why it cannot run here, or would be no measure of it; None: it can."""
    library = NEEDS.get(way)
    if library and importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    if (why := rivals.lacking(way)) is not None:
        return why
    if way == "bfloat16":
        import torch

        from tspin.policy.rates import matmul_rate

        ours, other = (matmul_rate(torch.device("cpu"), dtype)
                       for dtype in (torch.bfloat16, torch.float32))  # fmt: skip
        return None if ours > other else "this CPU multiplies float32 faster"
    return None


def is_settled(seconds: Sequence[Sequence[float]]) -> bool:
    """Whether more rounds would say little more, or those that were have taken LONG: the 95%
    intervals of all times over the first way's (of a way alone: of its own) reach at most NARROW to
    either side.

    seconds  of each way, one number a round
    """
    logs = [np.log(rounds) for rounds in seconds if len(rounds) >= FEWEST]
    if not logs or len(logs) < len(seconds):
        return False
    if sum(map(sum, seconds)) >= LONG:
        return True
    over = [other - logs[0] for other in logs[1:]] or logs
    return all(
        (it := mean_interval(ratio)).high - it.low <= 2 * math.log1p(NARROW) for ratio in over
    )


def machine(device: str, *, threads: int) -> dict[str, str]:
    """What the figures belong to."""
    import torch

    facts = {name: metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    facts["processor"] = names[0] if names else "unknown"
    if device == "cuda":
        facts["card"] = torch.cuda.get_device_name()
    settings = {k: v for k, v in ENVIRONMENT.items() if k.startswith("MALLOC")}
    return facts | {"threads": str(threads)} | settings


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
        # From a server that has imported everything and computed nothing: no start-up each time.
        context = get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.ways"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, case, way), daemon=True)
        self.process.start()
        theirs.close()  # else nobody would see that the process has ended

    def ask(self, question: int) -> Any:
        """The Round with that number; memory and parts for LAST. Raises RuntimeError."""
        try:
            self.pipe.send(question)
            answer = self.pipe.recv()
        except (EOFError, OSError):  # killed; or ended before it was asked
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(f"its process ended with {code} (-9: out of memory)") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(timeout=10)
        self.process.kill()


def _serve(pipe: Connection, case: Case, way: str) -> None:
    """The process: one way, from building it to the peak of memory. Answers, or a traceback."""
    try:
        question = pipe.recv()  # before anything that can fail: an answer has its question
    except EOFError:
        return
    try:
        from benchmarks.ways import WAYS

        work = WAYS[way](case)
        rest = _memory(case, peak=False)
        while question != LAST:
            # A single example warms libraries up; on a GPU the first time of all is slow.
            alone = question == WARM_UP and case.device != "cuda"
            triplets = case.triplets(max(question, 0))
            before, of_all = now(), busy()
            spent = work(triplets[:1] if alone else triplets)
            whole, of_all = now().since(before), busy() - of_all
            pipe.send(Round(spent, max(0.0, of_all - whole.cpu) / whole.wall))
            question = pipe.recv()
        peak = _memory(case, peak=True)
        pipe.send(({"extra": peak - rest, "peak": peak}, _parts(case, way, work)))
    except EOFError:
        pass  # the parent has closed its end
    except Exception:
        pipe.send(traceback.format_exc())


def _parts(case: Case, way: str, work: Callable[[list[Triplet]], Spent]) -> dict[str, float]:
    """Where the time of ours goes; of other ways and other work nothing."""
    if way not in TAKEN_APART or not case.apart:
        return {}
    import torch

    from tspin.policy.rates import matmul_rate

    triplets = case.triplets(0)
    found = parts.of(lambda: work(triplets))
    rate = matmul_rate(torch.device("cpu"), getattr(torch, TAKEN_APART[way]))
    return found | {parts.FLOOR: flops(case.model_shape, triplets, case.roles) / rate}


def _memory(case: Case, *, peak: bool) -> float:
    """MiB that the process holds, or held at most; on a GPU what torch has allocated there."""
    if case.device == "cuda":
        import torch

        cuda = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
        return cuda() / MIB
    return resident("VmHWM" if peak else "VmRSS") / MIB
