"""One value of a row of annotated data: is it text, and is it sound? Nothing is stripped.

`BadRow` is how a row is refused; who reads the source adds its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Characters of one text, some hundred times more than a model reads: encoding takes up to 200 bytes
# of memory for each, and so for a row of 100 MB 20 GB.
MAX_TEXT = 1 << 22


NUM_REASONS = 5  # bad rows described in full; the others are only counted


class BadRow(ValueError):
    """Why one row cannot be used; who reads the source adds the place."""


@dataclass
class BadRows:
    """What becomes of bad rows: an error, or with `skip` they are left out and counted.

    reasons  the first few, "file, line 3: why"
    """

    skip: bool
    number: int = 0
    reasons: tuple[str, ...] = ()

    def add(self, place: str, bad: BadRow) -> None:
        """ValueError unless bad rows are skipped. place: of the row, for people"""
        reason = f"{place}: {bad}"
        if not self.skip:
            raise ValueError(
                f"{reason}; repair the row, or leave such rows out with data.skip_bad_rows=true"
            ) from None
        self.number += 1
        self.reasons = (*self.reasons, reason)[:NUM_REASONS]


def text(value: object, name: str) -> str:
    """The text unchanged, or BadRow where there is none."""
    content = text_or_none(value, name)
    if content is None:
        raise BadRow(f"{name} is empty")
    return content


def text_or_none(value: object, name: str) -> str | None:
    """The text unchanged; None where there is none: null, empty or only white space."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRow(f"{name} is not a string but {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # how `surrogateescape` keeps a byte
            raise BadRow(
                f"{name} is not UTF-8: byte 0x{code - 0xDC00:02x} at its character "
                f"{error.start + 1}; save the file as UTF-8"
            ) from None
        raise BadRow(f"{name} is not valid Unicode: it has half a surrogate") from None
    return value if value.strip() else None


def kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def printable(name: object) -> str:
    """A name from a file as a log line can show it."""
    return re.sub(r"[^ -~]", "?", str(name))[:60]
