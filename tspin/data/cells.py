"""One value of a row of annotated data: is it text, and is it sound? Nothing is stripped.

`BadRow` is how a row is refused; who reads the source adds its place.
"""

from __future__ import annotations

import re

# Characters of one text, some hundred times more than a model reads: encoding takes up to 200 bytes
# of memory for each, and so for a row of 100 MB 20 GB.
MAX_TEXT = 1 << 22


class BadRow(ValueError):
    """Why one row cannot be used; `read_pairs` adds the file and the line."""


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
