"""Numbers of many rows: beyond what memory should hold, in a temporary file."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import IO, Any, overload

IN_MEMORY = 2**26  # bytes of a Spill that stay in memory: rows of a few thousand prompts


class Spill:
    """Keeps arrays of numbers: the first `in_memory` bytes as they are, those after in a file.

    The file has no name, lies where temporary files do ($TMPDIR) and goes with the last array that
    is in it. On a disk that is full, arrays stay in memory.
    """

    def __init__(self, in_memory: int | None = None) -> None:
        """in_memory: None: IN_MEMORY"""
        self._left = IN_MEMORY if in_memory is None else in_memory
        self._file: IO[bytes] | None = None
        self._end = 0  # of the file, in bytes

    def keep(self, numbers: array[int]) -> Sequence[int]:
        """The same numbers, wherever they are from now on."""
        size = len(numbers) * numbers.itemsize
        if self._left >= size:
            self._left -= size
            return numbers
        self._left = 0  # once it is full, a short one that would fit goes to the file, too
        try:
            return self._to_file(numbers, size)
        except OSError:  # no space, no place for temporary files
            return numbers

    def _to_file(self, numbers: array[int], size: int) -> Sequence[int]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)
        if os.pwrite(self._file.fileno(), numbers, self._end) < size:
            return numbers
        start, self._end = self._end, self._end + size
        return _Spilled(self._file, numbers.typecode, start, len(numbers))


class _Spilled(Sequence[int]):
    """Numbers in a file, read whole each time one of them is asked for.

    By places of its own (pread): threads and forked processes read the same file.
    """

    __slots__ = ("_code", "_file", "_length", "_start")

    def __init__(self, file: IO[bytes], code: str, start: int, length: int) -> None:
        self._file, self._code, self._start, self._length = file, code, start, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self._read())

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return self._read()[index]

    def __eq__(self, other: object) -> Any:
        if isinstance(other, _Spilled):
            return len(self) == len(other) and self._read() == other._read()
        return self._read() == other if isinstance(other, array) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # no array has one

    def __bytes__(self) -> bytes:
        return self._read().tobytes()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process, or a file, they are an array."""
        return array, (self._code, bytes(self))

    def _read(self) -> array[int]:
        numbers = array(self._code)
        size = self._length * numbers.itemsize
        read = os.pread(self._file.fileno(), size, self._start)
        if len(read) < size:
            raise OSError(f"a temporary file lost {size - len(read)} of {size} bytes")
        numbers.frombytes(read)
        return numbers
