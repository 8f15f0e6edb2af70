"""Rows of one .jsonl, .json, .csv, .tsv or .parquet file; the text ones may be compressed, .gz.

Text is UTF-8, or what a byte order mark says. A byte that is not UTF-8 becomes half a surrogate,
which `cells` refuses in its row.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import reprlib
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tspin.data.cells import BadRow
from tspin.data.schemas import COLUMNS, SCHEMAS, nearest
from tspin.tools import json_stream
from tspin.tools.log import kind_and_line
from tspin.tools.spelling import unknown

if TYPE_CHECKING:
    import pyarrow

Place = str  # of a row in its source, "line 3"
Rows = Iterator[tuple[Place, object]]
_Bytes = io.BufferedReader | gzip.GzipFile

DELIMITERS = {".csv": ",", ".tsv": "\t"}
ROWS_PER_BATCH = 1024  # rows held as Python objects at a time


def rows(path: Path, *, columns: Collection[str] = ()) -> Rows:
    """(place, row) of a file, places counting from 1; a row that cannot be read is a BadRow.

    columns  that the first line of a table has to name; without them one of schemas.COLUMNS
    ValueError for a file that cannot be read on.
    """
    kind = suffix(path)
    if kind in DELIMITERS:
        return _table_rows(path, delimiter=DELIMITERS[kind], columns=columns)
    return READERS[kind](path)


def suffix(path: Path) -> str:
    """What kind of file its name says it is, ".gz" left out."""
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    return "" if kind == ".parquet" and name.endswith(".gz") else kind


@contextmanager
def _opened(path: Path) -> Iterator[_Bytes]:
    """The bytes of a file. What stops reading is a ValueError with the file in it."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: it begins as {error.encoding.upper()} and goes on as something else "
            f"({error.reason}); save it as UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {kind_and_line(error)}") from error


def _encoding(file: _Bytes) -> str:
    return json.detect_encoding(file.peek(4)[:4])  # as JSON and tables begin with ASCII


def _text(file: _Bytes, *, newline: str) -> io.TextIOWrapper:
    encoding = _encoding(file)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(file, encoding, errors, newline=newline)


def _jsonl_rows(path: Path) -> Rows:
    with _opened(path) as file:
        # Lines end at a line feed, not at U+2028 or U+0085 inside a text. Of UTF-8 the bytes, as a
        # text file takes twice the memory of a long line.
        is_utf8 = _encoding(file).startswith("utf-8")
        lines = map(_stripped, file) if is_utf8 else _text(file, newline="\n")
        for number, line in enumerate(lines, start=1):
            if line := line.strip(" \t\r\n\v\f"):
                yield f"line {number}", _parse_json(line)


def _stripped(line: bytes) -> str:
    return line.strip().decode("utf-8", errors="surrogateescape")


def _json_rows(path: Path) -> Rows:
    with _opened(path) as file:
        rows = json_stream.rows(_text(file, newline=""))
        try:
            yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        except json_stream.Unreadable as error:
            raise ValueError(f"{path}: {error}") from error


def _parse_json(text: str) -> object:
    """The value of a line, or BadRow."""
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        return BadRow(f"broken JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits, 5000 open brackets
        return BadRow(f"JSON out of bounds ({error})")


def _table_rows(path: Path, *, delimiter: str, columns: Collection[str] = ()) -> Rows:
    """The rows below the line of column names; an empty cell is none."""
    csv.field_size_limit(sys.maxsize)  # what is too long is refused by `schemas`, with its column
    line = 0
    with _opened(path) as file:
        table = csv.reader(_text(file, newline=""), delimiter=delimiter, strict=True)
        try:
            names = [name.strip() for name in next(table, [])]
            _check_header(names, path, columns)
            line = table.line_num
            for cells in table:
                if len(cells) == len(names):
                    row = zip(names, cells, strict=True)
                    yield f"line {line + 1}", {name: cell for name, cell in row if cell}
                elif cells:
                    yield f"line {line + 1}", BadRow(f"{len(cells)} cells for {len(names)} columns")
                line = table.line_num
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line + 1}: {error}; a text with a quote, a line break or a "
                'separator stands in quotes, and a quote in it is doubled ("")'
            ) from error


def _check_header(names: list[str], path: Path, columns: Collection[str]) -> None:
    """ValueError unless the first line names the columns."""
    if not names:
        return  # an empty file: no usable row
    for column in columns:
        if column not in names:
            what = unknown(f"column {column}", column, names)
            raise ValueError(f"{path}, line 1: {what}; data.columns says what they are called")
    if not columns and not COLUMNS.intersection(names):
        raise ValueError(
            f"{path}, line 1: {reprlib.repr(names)} names no column that is read"
            f"{nearest(names)}; begin the file "
            f"with a line of column names: {SCHEMAS}"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{path}, line 1: two columns have the name {twice[0]!r}; rename one")


def _parquet_rows(path: Path) -> Rows:
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                for row in _batch_rows(batch):
                    number += 1
                    yield f"row {number}", row
    except Exception as error:  # Arrow's own, OSError, or what a type of it has not learnt yet
        raise ValueError(
            f"{path}, after row {number}: unreadable parquet: {kind_and_line(error)}"
        ) from error


def _batch_rows(batch: pyarrow.RecordBatch) -> list[object]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # also a date beyond those that Python has
        if batch.num_rows == 1:
            why = (
                f"invalid UTF-8 ({error.reason})"
                if isinstance(error, UnicodeDecodeError)
                else error
            )
            return [BadRow(f"{why}")]
    return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    **{kind: partial(_table_rows, delimiter=mark) for kind, mark in DELIMITERS.items()},
    ".parquet": _parquet_rows,
}
SOURCES = f"a {', '.join([*READERS][:-1])} or {[*READERS][-1]} file or a datasets folder"
