"""Rows in parquet files, a row group at a time, with a digest of the values of each. No torch."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tspin.tools.files import atomic, whole

DIGESTS = b"tspin.sha256"  # in the metadata of a parquet file, one of each row group
ROWS_PER_GROUP = 2048  # rows of a parquet file that are Python objects at a time


def write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Rows to one parquet file, a row group at a time; columns a row lacks become null.

    It carries a digest of the values of each group, which readers check: a byte that a disk or a
    copy has changed is found whatever it means.
    """
    digests: list[bytes] = []
    with atomic(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as file:
            left = iter(rows)
            while (group := list(islice(left, ROWS_PER_GROUP))) or not digests:
                table = pa.Table.from_pylist(group, schema=schema)
                digests.append(_values_digest(table))
                file.write_table(table)
            file.add_key_value_metadata({DIGESTS: b" ".join(digests)})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Raises ValueError, which names the file and the way out, for one that is damaged."""
    with whole(path):
        return [row for table in _groups(path) for row in table.to_pylist()]


def each_row(path: Path, *columns: str) -> Iterator[dict[str, Any]]:
    """The same rows for files of any size, a row group in memory at a time.

    Lists of numbers come as arrays of 2 or 4 bytes a number: in a list it would be 36.
    columns  of a row; none: all of them
    """
    with whole(path):
        for table in _groups(path):
            names = columns or table.column_names
            for cells in zip(*(_cells(table[name]) for name in names), strict=True):
                yield dict(zip(names, cells, strict=True))


def _groups(path: Path) -> Iterator[pa.Table]:
    """The row groups of a file, each after a look at its digest."""
    with pq.ParquetFile(path) as file:
        said = (file.metadata.metadata or {}).get(DIGESTS)  # of an older version: none
        digests = said.split() if said is not None else []
        count = max(file.num_row_groups, 1)
        if said is not None and len(digests) != count:
            raise ValueError("it has not as many row groups as were written")
        for i in range(count):
            table = file.read_row_group(i) if file.num_row_groups else file.read()
            if digests and digests[i] != _values_digest(table):
                raise ValueError("its values are not those that were written")
            yield table


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python objects, see `each_row`."""
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    numbers = pc.list_flatten(column).to_numpy()
    small = not len(numbers) or 0 <= numbers.min() <= numbers.max() < 2**16
    code, numbers = ("H", numbers.astype(np.uint16)) if small else ("i", numbers.astype(np.int32))
    lengths = pc.list_value_length(column).to_pylist()
    ends = np.cumsum([length or 0 for length in lengths]).tolist()
    return [
        None if length is None else array(code, numbers[end - length : end].tobytes())
        for length, end in zip(lengths, ends, strict=True)
    ]


def _values_digest(table: pa.Table) -> bytes:
    """sha256, in hex, of names, types and values of the columns, however they are encoded."""
    sha = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        sha.update(json.dumps([name, len(column)]).encode())
        for part in _column(column):
            sha.update(part)
    return sha.hexdigest().encode()


def _column(column: pa.ChunkedArray) -> Iterator[bytes]:
    """The values as bytes; nulls are told from what they are filled with."""
    missing = column.is_null()
    yield f"{len(column)} ".encode()
    yield missing.to_numpy().tobytes()
    if pa.types.is_list(column.type):
        yield pc.list_value_length(column).fill_null(0).to_numpy().tobytes()
        yield from _column(pc.list_flatten(column))
    elif pa.types.is_string(column.type):
        yield pc.binary_length(column).fill_null(0).to_numpy().tobytes()
        yield "".join(text for text in column.to_pylist() if text is not None).encode()
    else:
        yield f"{column.type} ".encode()
        yield column.filter(pc.invert(missing)).to_numpy().tobytes()
