"""When one process of a run fails: all of them stop, and one says why.

Whoever waits for a process that has gone would wait for a long time, and the launcher kills those
that are left. So the first process to fail gets the time to say what happened; the others, which
only notice that it has gone, end in silence.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tspin.distributed.world import LAST_WORDS, OtherRankFailed, World, end_in_silence
from tspin.tools.signals import REQUEUE, Preempted

log = logging.getLogger("tspin")


@contextmanager
def stopping_together(world: World) -> Iterator[None]:
    """Around all that processes do together: one fails, all stop, one of them says why."""
    if world.size == 1:
        yield
        return
    try:
        yield
    except BaseException as error:
        # Leaving a process group in the middle may wait for those who are no longer in it.
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        atexit.register(os._exit, REQUEUE if isinstance(error, Preempted) else code)
        if isinstance(error, Preempted):
            raise  # all are asked to stop, and by the launcher at the latest
        if isinstance(error, OtherRankFailed) or not _is_first(world):
            end_in_silence()
        if world.is_main:
            time.sleep(LAST_WORDS / 2)  # it keeps what the others count with
        log.setLevel(logging.ERROR)
        rank = f"rank {world.rank} of {world.size}"
        if _is_lost_connection(error):
            raise OSError(
                f"{rank} lost another process of this run, which was killed or lost its "
                "machine (the launcher says which below); the same command goes on from here"
            ) from error
        for kind in (FloatingPointError, OSError, ValueError):
            if isinstance(error, kind):
                raise kind(f"{rank}: {error}") from error
        log.error("%s fails:", rank)
        raise


def _is_first(world: World) -> bool:
    try:
        return world.count("failed") == 1
    except RuntimeError:  # the store has gone with the process that held it
        return True


def _is_lost_connection(error: BaseException) -> bool:
    """Whether it is the end of a connection to another process."""
    import torch.distributed as dist

    message = str(error)
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and any(word in message for word in ("gloo", "onnection closed by peer", "onnection reset"))
    )
