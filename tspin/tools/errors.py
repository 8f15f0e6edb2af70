"""What an error says, for one line of a log or a report."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of its message that is not empty; its type's name where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
