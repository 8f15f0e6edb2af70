"""Several processes that work on one run: who they are, and what they tell each other.

torchrun or `accelerate launch` starts the same program once for each device, on one or more nodes
that share `runs_dir`. Every process knows the data; rank 0, the main one, alone decides what is
there and writes it: `World.main` calls a function there. A single process is a World of size 1,
which waits for nobody.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Protocol, TypeVar

from tspin.config.run import ComputeConfig, OptimConfig, Quantize
from tspin.distributed.launcher import Parallel, check_devices, chosen, launched
from tspin.tools.files import atomic, owner

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
P = ParamSpec("P")
# A gradient that does not arrive in this time is a process that hangs.
COLLECTIVE = timedelta(minutes=30)
# The others wait on the main process for as long as benchmarks, or another run's lock, may take.
MAIN_AT_MOST = timedelta(days=30)
LAST_WORDS = 3.0  # seconds in which the process that failed first says why; a launcher kills it


class OtherRankFailed(SystemExit):
    """The run stops here because another process failed, and says so."""


class Artifact(Protocol):
    """A file or folder of a run."""

    def exists(self) -> bool: ...


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

    def main(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What work(...) returns, on all processes; the main one alone calls it, the others wait.

        Its failure stops all of them, and the main process says why.
        """
        if self.size == 1:
            return work(*args, **kwargs)
        if not self.is_main:
            result, failed = self._broadcast(None)
            if failed:
                raise OtherRankFailed(1)
            return result
        try:
            result = work(*args, **kwargs)
        except BaseException:
            self._broadcast((None, True))
            raise
        self._broadcast((result, False))
        return result

    def exists(self, artifact: Artifact) -> bool:
        """Whether it is there, as the main process sees it: processes never disagree on that."""
        return self.main(artifact.exists)

    def first_on_node(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What work(...) returns; on each node one process begins, the others find it done."""
        if self.size == 1:
            return work(*args, **kwargs)
        waits = os.environ.get("LOCAL_RANK", "0") != "0"
        if waits:
            self.barrier()
        result = work(*args, **kwargs)
        if not waits:
            self.barrier()
        return result

    def gather(self, mine: T) -> list[T]:
        """What every process has, by rank, on all of them."""
        if self.size == 1:
            return [mine]
        import torch.distributed as dist

        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, mine, group=self.control)
        return everyones

    def barrier(self) -> None:
        """Nobody goes on before all are here."""
        if self.size > 1:
            self.gather(None)

    def count(self, name: str) -> int:
        """How often the processes have counted `name`, this time included."""
        return _store().add(f"tspin/{name}", 1)

    def share(
        self,
        items: Sequence[T],
        *,
        passed: Callable[[T], object] = lambda item: None,
        by_main: bool = False,
    ) -> Iterator[T]:
        """Each item to one process: whoever is free takes the next.

        passed   called with the items that others took: what they do is not waited for
        by_main  all of them to the main process
        """
        if self.size == 1 or by_main:
            yield from items if self.is_main else ()
            return
        name, next_item = f"share/{next(_shares)}", 0
        while (number := self.count(name) - 1) < len(items):
            for item in items[next_item:number]:
                passed(item)
            yield items[number]
            next_item = number + 1
        for item in items[next_item:]:
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

    def _broadcast(self, value: Any) -> Any:
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]


ALONE = World(0, 1)


def join(compute: ComputeConfig, optim: OptimConfig, *, quantize: Quantize | None) -> World:
    """The world that the launcher made, ready for use.

    Raises ValueError for a launch that contradicts the configuration, on rank 0; OtherRankFailed
    on the others.
    """
    rank, size = launched()
    if size == 1:
        return ALONE
    try:
        parallel = chosen(compute, optim, os.environ, quantize=quantize)
        check_devices(compute)
    except ValueError:
        if rank == 0:
            raise
        end_in_silence()
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        from accelerate import PartialState

        on_cpu = compute.device == "cpu" or not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu, timeout=COLLECTIVE)
        atexit.register(state.destroy_process_group)
    return World(rank, size, parallel, _control_group())


def end_in_silence() -> NoReturn:
    """Ends this process once the one that failed first has had its time to say why."""
    time.sleep(LAST_WORDS)
    raise OtherRankFailed(1) from None


_shares = count()  # the same on all processes, which share in the same order


@cache
def _control_group() -> ProcessGroup:
    """One for all runs of this process."""
    import torch.distributed as dist

    group = dist.new_group(backend="gloo", timeout=MAIN_AT_MOST)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _store() -> Any:
    """Where processes count together. Torch has no public name for where they met."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
