"""Rows in parquet files, a row group at a time, in which a changed byte is found. No torch.

Pages carry checksums (parquet's own, of what is in them), and the file's metadata its columns and
counts, which no page has: a byte that a disk or a copy has changed is found whatever it means.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tspin.tools.files import atomic, whole

SHAPE = b"tspin.shape"  # in the metadata of a parquet file; an older version's has none
ROWS_PER_GROUP = 2048  # rows of a parquet file that are Python objects at a time


def write_rows(
    path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema, *, per_group: int | None = None
) -> None:
    """Rows to one parquet file, a row group at a time; columns a row lacks become null.

    per_group  rows of a group, None: ROWS_PER_GROUP; who wants some of long rows reads their groups
    """
    left, num_rows, num_groups = iter(rows), 0, 0
    size = per_group or ROWS_PER_GROUP
    with (
        atomic(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as file,
    ):
        while group := list(islice(left, size)):
            file.write_table(pa.Table.from_pylist(group, schema=schema))
            num_rows, num_groups = num_rows + len(group), num_groups + 1
        shape = [_columns(schema), num_rows, num_groups]
        file.add_key_value_metadata({SHAPE: json.dumps(shape).encode()})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Raises ValueError, which names the file and the way out, for one that is damaged."""
    with whole(path):
        return [row for table in _groups(path) for row in table.to_pylist()]


def each_row(path: Path, *columns: str) -> Iterator[dict[str, Any]]:
    """The same rows for files of any size, a row group in memory at a time.

    Lists of numbers come as arrays of 2 or 4 bytes a number: in a list it would be 36.
    columns  of a row, which alone are read; none: all of them
    """
    with whole(path):
        for table in _groups(path, columns):
            names = columns or table.column_names
            for cells in zip(*(_cells(table[name]) for name in names), strict=True):
                yield dict(zip(names, cells, strict=True))


def _groups(path: Path, columns: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The row groups of a file, checked: of all columns where none is named."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        shape = (file.metadata.metadata or {}).get(SHAPE)
        count = file.num_row_groups
        if shape is not None:
            if json.loads(shape) != [_columns(file.schema_arrow), file.metadata.num_rows, count]:
                raise ValueError("it has not the columns, rows and row groups that were written")
        for i in range(count):
            yield file.read_row_group(i, columns=list(columns) or None)


def _columns(schema: pa.Schema) -> list[list[str]]:
    """Names and types. Of a list the values' alone: how it names them changes by version."""
    return [[field.name, _kind(field.type)] for field in schema]


def _kind(kind: pa.DataType) -> str:
    return f"list of {_kind(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python objects, see `each_row`."""
    if not (pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type)):
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
