"""The rows of a JSON text one at a time: of a list, or of the list `data` of an object.

`json.loads` takes a text whole and makes every row of it at once. Here `JSONDecoder.raw_decode`
reads a row from a window of the text, which grows where the row has not ended in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TextIO

CHARACTERS = 2**20  # read at a time, at least
# The longest that the decoder has to see whole, be it -Infinity or an escape of two surrogates:
# what it says of less than this before the window's end may be mended by what follows.
MARGIN = 16
SPACES = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


class Unreadable(ValueError):
    """The text is no JSON, or holds no list of rows."""


def rows(text: TextIO) -> Iterator[object]:
    """Every row. Unreadable where the text cannot be read on: rows before it are good."""
    window = _Window(text)
    lists = 0
    if window.passes("["):
        lists = 1
        yield from _elements(window)
    elif window.passes("{"):
        for key in _keys(window):
            if key == "data" and window.passes("["):
                lists += 1
                yield from _elements(window)
            else:
                window.value()
    else:
        window.value()
    if window.peek():
        raise window.broken("Extra data")
    if lists != 1:
        how_many = "two lists under" if lists else "neither a list of rows nor"
        raise Unreadable(f'{how_many} {{"data": [rows]}}; write one of both')


def _elements(window: _Window) -> Iterator[object]:
    """Of a list whose bracket is passed."""
    for _ in _parts(window, "]"):
        yield window.value()


def _keys(window: _Window) -> Iterator[object]:
    """Of an object whose bracket is passed; who reads on takes the value first."""
    for _ in _parts(window, "}"):
        if window.peek() != '"':
            raise window.broken("Expecting property name enclosed in double quotes")
        key = window.value()
        window.expect(":")
        yield key


def _parts(window: _Window, end: str) -> Iterator[None]:
    """Stops at each part, which who reads on passes; behind the bracket that ends them at last."""
    if window.passes(end):
        return
    while True:
        yield
        if window.passes(end):
            return
        window.expect(",")


class _Window:
    """What has been read of a text and not been passed, and where in the text that is."""

    def __init__(self, text: TextIO) -> None:
        self.text = text
        self.characters, self.at = text.read(CHARACTERS).removeprefix("\ufeff"), 0
        self.line = self.column = 0  # of the window's begin, from 0

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            self.at = SPACES.match(self.characters, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.characters) or not self._grow():
                return self.characters[self.at : self.at + 1]

    def passes(self, character: str) -> bool:
        """Whether that is the next one, which is passed then."""
        if self.peek() != character:
            return False
        self.at += 1
        return True

    def expect(self, delimiter: str) -> None:
        if not self.passes(delimiter):
            raise self.broken(f"Expecting '{delimiter}' delimiter")

    def value(self) -> object:
        """The value that begins here, passed."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.characters, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or self._is_last(error.pos)
                if cut and self._grow():
                    continue
                raise self.broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:  # 5000 digits, 5000 open brackets
                raise Unreadable(f"JSON out of bounds ({error})") from error
            if self._is_last(end) and self._grow():
                continue  # a number may go on
            self.at = end
            return value

    def broken(self, message: str, at: int | None = None) -> Unreadable:
        at = self.at if at is None else at
        line, column = self._place(at)
        where = f"line {line + 1}, " if line else ""
        return Unreadable(
            f"broken JSON ({message} at {where}column {column + 1}); if each line is a row of its "
            "own, name it .jsonl"
        )

    def _is_last(self, at: int) -> bool:
        return at > len(self.characters) - MARGIN

    def _grow(self) -> bool:
        """Reads on, as much again as is not passed, which alone is kept. -> whether there was."""
        left = self.characters[self.at :]
        more = self.text.read(max(CHARACTERS, len(left)))
        if more:
            self.line, self.column = self._place(self.at)
            self.characters, self.at = left + more, 0
        return bool(more)

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column of a place in the window, from 0."""
        lines = self.characters.count("\n", 0, at)
        if not lines:
            return self.line, self.column + at
        return self.line + lines, at - self.characters.rfind("\n", 0, at) - 1
