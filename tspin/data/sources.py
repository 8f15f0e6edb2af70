"""Rows of a .jsonl, .json or .parquet file, a folder of `datasets`, or a hub dataset.

Knows containers and where they are, not what a row means.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tspin.data.schemas import BadRow
from tspin.tools import hub
from tspin.tools.log import kind_and_line

if TYPE_CHECKING:
    import datasets
    import pyarrow

SUFFIXES = (".jsonl", ".json", ".parquet")
SOURCES = f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file or a datasets folder"

ROWS_PER_BATCH = 1024  # rows held as Python objects at a time


def check_reachable(path: str, *, revision: str | None = None) -> None:
    """Raise ValueError if the source is not there: to be asked before anything heavy is loaded.

    A local file or folder must be readable; a hub dataset must answer within hub.SECONDS or be in
    the local cache. With HF_HUB_OFFLINE or HF_DATASETS_OFFLINE only the cache counts.
    """
    local = _local(path)
    if local is None:
        _reach_hub(path, revision=revision)
    elif not os.access(local, os.R_OK | (os.X_OK if local.is_dir() else 0)):
        raise ValueError(f"data.path={path} may not be read by this user; change its permissions")


def rows(path: str, *, split: str, revision: str | None) -> Iterator[tuple[str, object]]:
    """(place, row) of a source, places counting from 1; a row that cannot be read is a BadRow."""
    local = _local(path)
    if local is None:
        return _dataset_rows(_hub_dataset(path, split=split, revision=revision))
    if local.is_dir():
        return _dataset_rows(_folder_dataset(local, split=split))
    match local.suffix.lower():
        case ".jsonl":
            return _jsonl_rows(local)
        case ".json":
            return _json_rows(local)
        case _:
            return _parquet_rows(local)


def _local(path: str) -> Path | None:
    """The path as a readable kind of file or folder, None for a hub id, ValueError for neither."""
    if not path:
        raise ValueError(f"data.path is not set; use {SOURCES}, or a hub id owner/name")
    local = Path(os.path.expanduser(path))
    if os.path.isdir(local):
        return local
    if os.path.exists(local):
        if local.suffix.lower() not in SUFFIXES:
            raise ValueError(f"data.path={path} is a kind of file that is not read; use {SOURCES}")
        return local
    is_hub_id = re.fullmatch(r"[^/.~\s][^/\s]*/[^/\s]+", path)
    if is_hub_id and local.suffix.lower() not in SUFFIXES:
        return None
    raise ValueError(f"data.path={path}: no such file; use {SOURCES}, or a hub id owner/name")


def _jsonl_rows(path: Path) -> Iterator[tuple[str, object]]:
    with path.open("rb") as lines:  # bytes: str lines would also end at U+2028 inside a text
        for number, line in enumerate(lines, start=1):
            if line := line.strip():
                yield f"line {number}", _parse_json(line)


def _json_rows(path: Path) -> Iterator[tuple[str, object]]:
    rows = _parse_json(path.read_bytes())
    if isinstance(rows, BadRow):
        raise ValueError(f"{path}: {rows}; if each line is a row of its own, name it .jsonl")
    if isinstance(rows, Mapping):
        rows = rows.get("data")
    if not isinstance(rows, list):
        raise ValueError(f'{path}: neither a list of rows nor {{"data": [rows]}}; use {SOURCES}')
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _parse_json(data: bytes) -> object:
    """The value of a JSON text, or BadRow."""
    # A byte that is not UTF-8 becomes half a surrogate, which `_optional_text` refuses in its row
    text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return BadRow(f"broken JSON ({error.msg} at {line}column {error.colno})")
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits, 5000 open brackets
        return BadRow(f"JSON out of bounds ({error})")


def _parquet_rows(path: Path) -> Iterator[tuple[str, object]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                for row in _batch_rows(batch):
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}, after row {number}: unreadable parquet: {error}") from error


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


def _dataset_rows(dataset: datasets.Dataset) -> Iterator[tuple[str, object]]:
    # Through `datasets` and not its Arrow table, which may hold encoded columns
    for start in range(0, len(dataset), ROWS_PER_BATCH):
        stop = min(start + ROWS_PER_BATCH, len(dataset))
        try:
            columns = dataset[start:stop]
            rows: list[object] = [
                dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)
            ]
        except UnicodeDecodeError:
            rows = [_dataset_row(dataset, index) for index in range(start, stop)]
        yield from ((f"row {start + i}", row) for i, row in enumerate(rows, start=1))


def _dataset_row(dataset: datasets.Dataset, index: int) -> object:
    try:
        return dataset[index]
    except UnicodeDecodeError as error:
        return BadRow(f"invalid UTF-8 ({error.reason})")


# `datasets` folders and the hub


def _folder_dataset(path: Path, *, split: str) -> datasets.Dataset:
    """A folder written by save_to_disk, or one of data files; a lone Dataset has no splits."""
    import datasets

    try:
        if (path / "dataset_dict.json").exists():
            splits = datasets.load_from_disk(str(path))
            if split not in splits:
                raise ValueError(f"no split {split!r}, only {sorted(splits)}")
            return splits[split]
        if (path / "state.json").exists():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path), split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"data.path={path} with data.split={split}: {_cause(error)}; use another data.split, "
            f"or one of its files as data.path to see which row is at fault"
        ) from error


def _hub_dataset(path: str, *, split: str, revision: str | None) -> datasets.Dataset:
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    prepared = _reach_hub(path, revision=revision)
    try:
        if prepared is None:
            return datasets.load_dataset(path, split=split, revision=revision)
        # load_dataset would ask the hub five more times, and then take any cached revision
        config_name, version, commit = prepared.parts[-3:]
        cache = Cache(
            repo_id=path,
            dataset_name=path.split("/")[1],
            config_name=config_name,
            version=version,
            hash=commit,
        )
        return cache.as_dataset(split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"hub dataset data.path={path} with data.split={split}, data.revision={revision}: "
            f"{_cause(error)}; use another data.split, or data.path=FILE, {SOURCES}"
        ) from error


def _reach_hub(path: str, *, revision: str | None) -> Path | None:
    """None if the hub answers, else the folder of the local cache, else ValueError."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import RevisionNotFoundError

    if datasets.config.HF_HUB_OFFLINE or huggingface_hub.constants.HF_HUB_OFFLINE:
        why = "offline mode is on"
    else:
        try:
            huggingface_hub.HfApi().dataset_info(path, revision=revision, timeout=hub.SECONDS)
            return None
        except RevisionNotFoundError:
            raise ValueError(
                f"hub dataset data.path={path} has no data.revision={revision}; use a commit, tag "
                f"or branch of it"
            ) from None
        except Exception as error:  # the HTTP client, and with it its errors, changes by version
            why = _cause(error)
    prepared = _prepared(path, revision=revision)
    if prepared is None:
        raise ValueError(
            f"data.path={path} is no local file, and as a hub dataset it is neither in reach "
            f"({why}) nor in the local cache; use data.path=FILE, {SOURCES}"
        )
    return prepared


def _prepared(path: str, *, revision: str | None) -> Path | None:
    """The newest folder config/version/commit in which `datasets` keeps this hub dataset.

    A revision that is a commit must be that one; a tag or branch cannot be told without the hub.
    """
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, name = path.split("/")
    root = Path(datasets.config.HF_DATASETS_CACHE, f"{owner}___{camelcase_to_snakecase(name)}")
    commit = revision if re.fullmatch(r"[0-9a-f]{40}", revision or "") else "*"
    folders = [
        file.parent
        for file in root.glob(f"*/*/{commit}/dataset_info.json")
        # A folder with another name than its configuration holds only a part: some data_files
        if json.loads(file.read_bytes()).get("config_name") == file.parts[-4]
        and not file.parent.name.endswith(".incomplete")
    ]
    if len({folder.parent.parent for folder in folders}) > 1:  # as `datasets` chooses by the hub
        folders = [folder for folder in folders if folder.parts[-3] == "default"]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _cause(error: BaseException) -> str:
    """One line of the first error of a chain: `datasets` wraps the telling one in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return kind_and_line(error)
