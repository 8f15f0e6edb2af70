"""Several processes that work on one run: who they are, and what they tell each other.

torchrun or `accelerate launch` starts the same program once for each device, on one or more nodes
that share `runs_dir`. Every process knows the data; rank 0, the main one, alone decides what is
there and writes it. A single process is a World of size 1, which asks nobody.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tspin.config.run import ComputeConfig, OptimConfig
from tspin.distributed.launcher import Parallel, check_devices, chosen, launched
from tspin.tools.files import atomic, owner
from tspin.tools.signals import REQUEUE, Preempted

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

log = logging.getLogger("tspin")
T = TypeVar("T")
# A gradient that does not arrive in this time is a process that hangs.
COLLECTIVE = timedelta(minutes=30)
# The others wait on the main process for as long as benchmarks, or another run's lock, may take.
ALONE_AT_MOST = timedelta(days=30)
LAST_WORDS = 3.0  # seconds in which the process that failed first says why; a launcher kills it


class Artifact(Protocol):
    """A file or folder of a run."""

    def exists(self) -> bool: ...


class Elsewhere(SystemExit):
    """The run stops here because another process failed, and says so."""


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    parallel  how they train; without a meaning where there is one process
    control   a group on the CPU that waits long: for all that is no gradient
    """

    rank: int
    size: int
    parallel: Parallel = "ddp"
    control: ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether a process holds a part of the weights only while it trains."""
        return self.size > 1 and self.parallel == "fsdp2"

    def main(self, work: Callable[[], T]) -> T:
        """What `work` returns, on all processes; the main one alone does it, the others wait.

        Its failure stops all of them, and the main process says why.
        """
        if self.size == 1:
            return work()
        if not self.is_main:
            found, failed = self._broadcast(None)
            if failed:
                raise Elsewhere(1)
            return found
        try:
            found = work()
        except BaseException:
            self._broadcast((None, True))
            raise
        self._broadcast((found, False))
        return found

    def alone(self, work: Callable[[], object]) -> None:
        """`work` by the main process, and done for all when this returns."""

        def done() -> None:
            work()

        self.main(done)

    def there(self, artifact: Artifact) -> bool:
        """Whether it is, as the main process sees it: processes never disagree on what to do."""
        return self.main(artifact.exists)

    def first_on_node(self, work: Callable[[], T]) -> T:
        """What `work` returns; on each node one process begins and the others find it done."""
        if self.size == 1:
            return work()
        waits = os.environ.get("LOCAL_RANK", "0") != "0"
        if waits:
            self.barrier()
        found = work()
        if not waits:
            self.barrier()
        return found

    def gather(self, mine: T) -> list[T]:
        """What every process has, by rank, on all of them."""
        if self.size == 1:
            return [mine]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, group=self.control)
        return found

    def barrier(self) -> None:
        """Nobody goes on before all are here."""
        if self.size > 1:
            self.gather(None)

    def share(
        self,
        items: Sequence[T],
        *,
        passed: Callable[[T], object] = lambda item: None,
        by_main: bool = False,
    ) -> Iterator[T]:
        """Each item to one process: whoever is free takes the next.

        passed   told of the items that others took: what they do is not waited for
        by_main  all of them to the main process
        """
        if self.size == 1 or by_main:
            yield from items if self.is_main else ()
            return
        key, told = f"tspin/share/{next(_shares)}", 0
        while (number := _store().add(key, 1) - 1) < len(items):
            for item in items[told:number]:
                passed(item)
            yield items[number]
            told = number + 1
        for item in items[told:]:
            passed(item)

    @contextmanager
    def held(self, folder: Path, *, wait: bool = False, what: str | None = None) -> Iterator[None]:
        """files.owner, by the main process for all."""
        with ExitStack() as stack:
            self.main(lambda: stack.enter_context(owner(folder, wait=wait, what=what)))
            yield
            self.barrier()

    @contextmanager
    def atomic(self, path: Path) -> Iterator[Path]:
        """files.atomic, for a folder that several processes write to."""

        def begin() -> Path:
            temporary = stack.enter_context(atomic(path))
            temporary.mkdir()
            return temporary

        with ExitStack() as stack:
            yield self.main(begin)
            self.barrier()
        self.barrier()  # it is there for all

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around all that is done together: one process fails, all stop, one of them says why."""
        if self.size == 1:
            yield
            return
        try:
            yield
        except BaseException as error:
            # Leaving a process group in the middle may wait for those who are not there.
            atexit.register(os._exit, _exit_code(error))
            if isinstance(error, Preempted):
                raise  # all are asked to stop, and by the launcher at the latest
            if isinstance(error, Elsewhere) or not self._first_to_fail():
                time.sleep(LAST_WORDS)
                raise Elsewhere(1) from None
            if self.is_main:
                time.sleep(LAST_WORDS / 2)  # it keeps what the others count with
            log.setLevel(logging.ERROR)
            who = f"rank {self.rank} of {self.size}"
            if _lost(error):
                raise OSError(
                    f"{who} lost another process of this run, which was killed or lost its "
                    "machine (the launcher says which below); the same command goes on from here"
                ) from error
            for kind in (FloatingPointError, OSError, ValueError):
                if isinstance(error, kind):
                    raise kind(f"{who}: {error}") from error
            log.error("%s fails:", who)
            raise

    def _broadcast(self, value: Any) -> Any:
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0, group=self.control)
        return held[0]

    def _first_to_fail(self) -> bool:
        try:
            return _store().add("tspin/failed", 1) == 1
        except RuntimeError:  # the store has gone with the process that held it
            return True


ALONE = World(0, 1)


def join(compute: ComputeConfig, optim: OptimConfig, *, lora: bool) -> World:
    """The world that the launcher made, ready to be talked to.

    Raises ValueError for a launch that contradicts the configuration, on rank 0; Elsewhere on the
    others.
    """
    rank, size = launched()
    if size == 1:
        return ALONE
    try:
        parallel = chosen(compute, optim, os.environ, lora=lora)
        check_devices(compute)
    except ValueError:
        if rank == 0:
            raise
        time.sleep(LAST_WORDS)
        raise Elsewhere(1) from None
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        from accelerate import PartialState

        on_cpu = compute.device == "cpu" or not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu, timeout=COLLECTIVE)
        atexit.register(state.destroy_process_group)
    return World(rank, size, parallel, _control_group())


_shares = count()  # the same on all processes, which share in the same order


@cache
def _control_group() -> ProcessGroup:
    """One for all runs of this process."""
    import torch.distributed as dist

    group = dist.new_group(backend="gloo", timeout=ALONE_AT_MOST)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _store() -> Any:
    """Where processes count together. Torch has no public name for where they met."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, Preempted):
        return REQUEUE
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _lost(error: BaseException) -> bool:
    """Whether it is the end of a connection to another process."""
    import torch.distributed as dist

    said = str(error)
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and any(word in said for word in ("gloo", "onnection closed by peer", "onnection reset"))
    )
