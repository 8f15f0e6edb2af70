"""compute.overlap: theta_t+1 is scored and evaluated while the next iteration samples and trains.

What follows a training reads files and leaves files, so whoever has the folder can do it: a second
process of this machine (selfplay/judge.py). An iteration is finished, here, before the next one is
handed over, so that at most one is behind. With as many threads the files are those of a run that
does one after the other, bit for bit, and a kill leaves what a kill leaves there: stages to be
made again, by either process. A run that waits for the same iteration (twin.py) waits for its
training alone, and makes the rest itself.
"""

from __future__ import annotations

import logging
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from tspin.config.load import dump
from tspin.config.run import Run
from tspin.distributed.world import World
from tspin.policy import dtypes
from tspin.runs import provenance
from tspin.runs.start import first_iteration
from tspin.selfplay.iteration import IterationStages
from tspin.selfplay.session import Session
from tspin.tools import activity
from tspin.tools.child import Child, as_here, started
from tspin.tools.log import once

log = logging.getLogger("tspin")
COMMAND = [sys.executable, "-m", "tspin.selfplay.judge"]


def num_threads(cfg: Run, world: World) -> int:
    """compute.threads of each process; not given, two processes share the machine's."""
    if cfg.compute.threads is not None:
        return cfg.compute.threads
    own = torch.get_num_threads()
    return max(1, own // 2) if cfg.compute.overlap and _cannot(cfg, world) is None else own


class Conclude(Protocol):
    """played: whether its seconds say what another iteration will take"""

    def __call__(self, t: int, *, played: bool) -> None: ...


class Overlap:
    """The iteration whose scores and evaluation are made beside the next one, where there is one.

    child     the process that makes them; None: iterations are played one after the other
    conclude  what follows an iteration that is finished
    behind    its number, while there is one
    """

    def __init__(self, session: Session, conclude: Conclude, child: Child | None = None) -> None:
        self.session, self.conclude, self.child = session, conclude, child
        self.behind: int | None = None
        self._settled = 0
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        if child is not None:
            threading.Thread(target=_listen, args=(child, self._answers), daemon=True).start()

    def takes(self, t: int) -> bool:
        """Hands iteration t, which is trained, over; the one before it is finished first.

        -> whether it is behind from now on
        """
        self.settle()
        if self.child is None or not may_be_behind(self.session.cfg, t):
            return False
        self.child.send(t)
        self.behind = t
        return True

    def settle(self) -> None:
        """Waits for the iteration that is behind, and finishes it.

        Raises FloatingPointError where its policy has diverged.
        """
        if self.behind is None:
            return
        t, self.behind = self.behind, None
        with activity.waiting(f"iteration {t}: score, evaluate"):
            answer = self._answers.get()
        if "judged" in answer:
            provenance.add_kernels(self.session.folder, answer["kernels"])
        else:
            log.warning("compute.overlap: %s; this process goes on alone", answer["failed"])
            self.child = None
        iteration = IterationStages(self.session, t)
        iteration.judge()  # what is not there yet
        iteration.finish()
        # Until the first one is, two trainings have passed: no measure of an iteration.
        self.conclude(t, played=self._settled > 0)
        self._settled += 1


@contextmanager
def overlapping(session: Session, conclude: Conclude) -> Iterator[Overlap]:
    """An Overlap whose process, where compute.overlap asks for one, lives as long as this block."""
    cfg, world = session.cfg, session.world
    todo = range(first_iteration(cfg) + len(session.folder.iterations()), cfg.selfplay.iterations)
    wanted = cfg.compute.overlap and any(may_be_behind(cfg, t) for t in todo)
    if wanted and (why := _cannot(cfg, world)) is not None:
        once(f"compute.overlap=true: {why}; iterations are played one after the other")
        wanted = False
    if not wanted:
        yield Overlap(session, conclude)
        return
    with (
        tempfile.TemporaryFile() as bars,
        started(COMMAND, log=bars, environment=as_here()) as child,
    ):
        child.send(
            {
                "run": dump(cfg),
                "initial": str(session.inputs.initial.absolute()),
                "threads": torch.get_num_threads(),
            }
        )
        overlap = Overlap(session, conclude, child)
        try:
            yield overlap
        except FloatingPointError:
            overlap.settle()  # which says so where the policy that it began from had diverged
            raise
        child.send(None)


def may_be_behind(cfg: Run, t: int) -> bool:
    """Not the last iteration, nor one whose scores say what the next one trains on."""
    return t + 1 < cfg.selfplay.iterations and not cfg.curriculum_at(t + 1)


def _cannot(cfg: Run, world: World) -> str | None:
    device = dtypes.resolve(cfg.compute, cfg.optim.precision).device.type
    return cfg.cannot_overlap(processes=world.size, device=device)


def _listen(child: Child, answers: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Its log becomes ours, its answers those that `settle` waits for; its end is one, too."""
    for message in child.messages():
        if "log" in message:
            log.log(*message["log"])
        else:
            answers.put(message)
    answers.put({"failed": child.death("its process") or "its process ended"})
