"""What the log and error messages share. No torch."""

from __future__ import annotations

import logging
from functools import cache

LONGEST = 400  # characters of a reason


@cache
def once(message: str) -> None:
    """Logs a message once in this process, however often it is said."""
    logging.getLogger("tspin").info("%s", message)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut where it is long; its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:LONGEST] if lines else type(error).__name__


def kind_and_line(error: BaseException) -> str:
    """The same behind its kind: `KeyError: 'id'`."""
    kind, line = type(error).__name__, first_line(error)
    return line if line == kind else f"{kind}: {line}"


def one_line(error: BaseException) -> str:
    """All lines of an error's message as one, cut where it is long: of libraries whose first line
    is a heading."""
    return " ".join(str(error).split())[:LONGEST] or type(error).__name__
