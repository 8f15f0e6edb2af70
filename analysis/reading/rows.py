"""Files of many rows, of which a few are wanted, or numbers alone: as tables, or as arrays.

pyarrow's reader of single files reads them: its reader of data sets is a library more to load, and
holds more of a file at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tspin.objectives import ROLES

Scored = dict[tuple[str, str], np.ndarray]  # (logp | num_tokens | reward, role) -> (prompts,)
NUMBERS = ("logp", "num_tokens", "reward")
SCORED = ("id", "role", *NUMBERS)


def table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Those of these columns that the file has, of all rows."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=_known(file, columns), use_threads=False)


def found(path: Path, columns: Sequence[str], **wanted: Sequence[str]) -> pa.Table:
    """Those of these columns that the file has, of the rows that have, in every column named, one
    of the values wanted there. Of the others only row groups with such a row are read."""
    with pq.ParquetFile(path) as file:
        keys = file.read(columns=[*wanted], use_threads=False)
        hits = np.logical_and.reduce([
            pc.is_in(keys[name], value_set=pa.array(values, pa.string())).to_numpy()
            for name, values in wanted.items()
        ])  # fmt: skip
        known, start = _known(file, columns), 0
        parts = [file.schema_arrow.empty_table().select(known)]
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if hits[start:end].any():
                rows = file.read_row_group(group, columns=known, use_threads=False)
                parts.append(rows.filter(pa.array(hits[start:end])))
            start = end
    return pa.concat_tables(parts)


def scores(path: Path, ids: pa.Array | None = None) -> Scored:
    """Of scores.parquet, of the prompts with their latest y', NaN where one was not scored; {}
    where there is no file, and roles that nobody scored are left out.

    ids  of the prompts; None: of those in the file
    """
    return by_role(table(path, SCORED), ids) if path.exists() else {}


def by_role(rows: pa.Table, ids: pa.Array | None = None) -> Scored:
    """`scores` of rows that were read, with the columns SCORED."""
    ids = pc.unique(rows["id"]) if ids is None else ids
    places = pc.index_in(rows["id"], value_set=ids)
    result: Scored = {}
    for role in ROLES:
        own = pc.and_(pc.equal(rows["role"], role), pc.is_valid(places))
        of_role = pc.filter(places, own).to_numpy()
        for number in NUMBERS if len(of_role) else ():
            values = np.full(len(ids), np.nan, dtype=np.float32)
            values[of_role] = pc.filter(rows[number], own).to_numpy()
            result[number, role] = values
    return result


def matching(path: Path, columns: Sequence[str], words: str) -> Iterator[str]:
    """Ids of the rows that have these words in a column, capitals or not."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["id", *columns], use_threads=False)
            for column in columns:
                hit = pc.match_substring(table[column], words, ignore_case=True)
                yield from table["id"].filter(hit).to_pylist()


def _known(file: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
    """Of these columns those of the file, in its order."""
    return [name for name in file.schema_arrow.names if name in columns]
