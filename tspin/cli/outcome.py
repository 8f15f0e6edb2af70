"""How a command ends: what a user can mend is one line, and an exit code says the rest."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tspin.tools import signals

MENDABLE = (ValueError, OSError, KeyboardInterrupt)
INTERRUPTED = 130

log = logging.getLogger("tspin")


def configure_logging() -> None:
    """Messages of ours on stderr as they are; of others warnings alone."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)


def exit_code(error: BaseException) -> int:
    """Of a verb, or a command of analysis, that ends with one of MENDABLE; writes the one line."""
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    sys.stderr.write(f"error: {error}\n")
    return 1


@contextmanager
def of_point(*, single: bool) -> Iterator[None]:
    """Around the work on one point of main.py. single: it is a run by itself, not of a multirun"""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        log.error("error: %s", error)
        if single:
            sys.exit(1)
        raise  # Hydra goes on with the other points and exits with 1 in the end
    except KeyboardInterrupt:
        log.error("interrupted; the same command goes on from here")
        sys.exit(INTERRUPTED)  # of a multirun too
    except signals.Preempted as stopped:
        log.error("stopped by %s; the same command goes on from here", stopped)
        sys.exit(signals.leave())  # likewise
    except Exception as error:  # a fault of ours; of a single run Hydra shows the traceback
        if not single:
            log.error("error: %s", error, exc_info=error)
        raise
