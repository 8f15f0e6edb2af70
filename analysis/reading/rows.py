"""Files of many rows, of which a few are wanted, or numbers alone: as arrays, or by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tspin.objectives import ROLES

Scored = dict[tuple[str, str], np.ndarray]  # (logp | num_tokens | reward, role) -> (prompts,)
NUMBERS = ("logp", "num_tokens", "reward")


def scores(path: Path, ids: pa.Array | None = None) -> Scored:
    """Of scores.parquet, of the prompts with their latest y', NaN where one was not scored; {}
    where there is no file, and roles that nobody scored are left out.

    ids  of the prompts; None: of those in the file
    """
    if not path.exists():
        return {}
    table = pq.read_table(path, columns=["id", "role", *NUMBERS], use_threads=False)
    ids = pc.unique(table["id"]) if ids is None else ids
    places = pc.index_in(table["id"], value_set=ids)
    result: Scored = {}
    for role in ROLES:
        own = pc.and_(pc.equal(table["role"], role), pc.is_valid(places))
        rows = pc.filter(places, own).to_numpy()
        for number in NUMBERS if len(rows) else ():
            values = np.full(len(ids), np.nan, dtype=np.float32)
            values[rows] = pc.filter(table[number], own).to_numpy()
            result[number, role] = values
    return result


class Lookup:
    """The rows of one parquet file by id: of its texts those row groups alone are read that hold
    some of the rows wanted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            self._ids = file.read(columns=["id"], use_threads=False)["id"].combine_chunks()
            groups = range(file.num_row_groups)
            self._ends = np.cumsum([file.metadata.row_group(i).num_rows for i in groups])

    def rows(self, ids: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """`columns` that the file has, and id, of every row with one of these ids."""
        wanted = pa.array(ids, pa.string())
        places = np.flatnonzero(pc.is_in(self._ids, value_set=wanted).to_numpy(False))
        found: list[dict[str, Any]] = []
        with pq.ParquetFile(self.path) as file:
            known = ["id", *(name for name in columns if name in file.schema_arrow.names)]
            for group in np.unique(np.searchsorted(self._ends, places, side="right")):
                table = file.read_row_group(group, columns=known, use_threads=False)
                found += table.filter(pc.is_in(table["id"], value_set=wanted)).to_pylist()
        return found


def matching(path: Path, columns: Sequence[str], words: str) -> Iterator[str]:
    """Ids of the rows that have these words in a column, capitals or not."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["id", *columns], use_threads=False)
            for column in columns:
                hit = pc.match_substring(table[column], words, ignore_case=True)
                yield from table["id"].filter(hit).to_pylist()
