"""Files of many rows, of which a few are wanted, or numbers alone: as tables, or as arrays.

pyarrow's reader of single files reads them: its reader of data sets is a library more to load, and
holds more of a file at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    with _opened(path) as file:
        return file.read(columns=_known(file, columns), use_threads=False)


def found(path: Path, columns: Sequence[str], **wanted: Sequence[str]) -> pa.Table:
    """Those of these columns that the file has, of the rows that have, in every column named, one
    of the values wanted there. Of the others only row groups with such a row are read."""
    with _opened(path) as file:
        keys = file.read(columns=[*wanted], use_threads=False)
        hits = np.logical_and.reduce([
            pc.is_in(keys[name], value_set=pa.array(values, pa.string())).to_numpy()
            for name, values in wanted.items()
        ])  # fmt: skip
        known, start = _known(file, columns), 0
        parts = [file.schema_arrow.empty_table().select(known)]
        for group in range(file.num_row_groups):
            hit = pa.array(hits[start : start + file.metadata.row_group(group).num_rows])
            start += len(hit)
            if hit.true_count:  # a column at a time: a group of texts is megabytes
                read = (file.read_row_group(group, columns=[it], use_threads=False) for it in known)
                parts.append(pa.table([it.column(0).filter(hit) for it in read], parts[0].schema))
    return pa.concat_tables(parts)


def scores(path: Path, ids: pa.Array | None = None) -> Scored:
    """Of scores.parquet, of the prompts with their latest y', NaN where one was not scored; {}
    where there is no file, and roles that nobody scored are left out.

    ids  of the prompts; None: of those in the file
    """
    if not path.exists():
        return {}
    with _opened(path) as file:  # a column at a time: all of many prompts are large
        return by_role(lambda name: file.read(columns=[name], use_threads=False)[name], ids)


def by_role(column: Callable[[str], pa.ChunkedArray], ids: pa.Array | None = None) -> Scored:
    """`scores` of some rows, by their columns."""
    places = column("id")
    ids = pc.unique(places) if ids is None else ids
    places, role = pc.index_in(places, value_set=ids), column("role")
    own = {it: pc.and_(pc.equal(role, it), pc.is_valid(places)) for it in ROLES}
    at = {it: pc.filter(places, mask).to_numpy() for it, mask in own.items()}
    result: Scored = {}
    for number in NUMBERS:
        of_rows = column(number)
        for it in ROLES:
            if len(at[it]):
                values = np.full(len(ids), np.nan, dtype=np.float32)
                values[at[it]] = pc.filter(of_rows, own[it]).to_numpy()
                result[number, it] = values
    return result


def matching(path: Path, columns: Sequence[str], words: str) -> Iterator[str]:
    """Ids of the rows that have these words in a column, capitals or not."""
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["id", *columns], use_threads=False)
            for column in columns:
                hit = pc.match_substring(table[column], words, ignore_case=True)
                yield from table["id"].filter(hit).to_pylist()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The file; what it took to read it is given back, rather than kept for the next one."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    finally:
        pa.default_memory_pool().release_unused()


def _known(file: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
    """Of these columns those of the file, in its order."""
    return [name for name in file.schema_arrow.names if name in columns]
