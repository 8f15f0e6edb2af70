"""Rows of what the library `datasets` reads: its folders, and data sets of the hub.

Its errors are ValueErrors of one line with the way out: what it raises changes by version.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tspin.data import files
from tspin.data.cells import BadRow
from tspin.tools import hub
from tspin.tools.log import kind_and_line

if TYPE_CHECKING:
    import datasets

log = logging.getLogger("tspin")

DESCRIBING = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
PACKED = (".arrow", ".zip", ".tar", ".bz2", ".xz", ".zst", ".lz4")  # read beside our own kinds


def check_folder(path: Path) -> None:
    """ValueError for a folder without a file that could hold rows; only names are looked at."""
    kinds = {*files.READERS, *PACKED}
    if not any(files.suffix(file) in kinds for file in path.rglob("*")):
        raise ValueError(
            f"data.path={path} is a folder without data; use {files.SOURCES}, or a hub id "
            "owner/name"
        )


def folder_rows(path: Path, *, split: str) -> Iterator[tuple[str, object]]:
    """(place, row) of a folder that save_to_disk wrote, or of one with data files."""
    return _rows(_folder_dataset(path, split=split))


def hub_rows(path: str, *, split: str, revision: str | None) -> Iterator[tuple[str, object]]:
    """(place, row) of a data set OWNER/NAME, from the hub or the local cache."""
    return _rows(_hub_dataset(path, split=split, revision=revision))


def reach_hub(path: str, *, revision: str | None) -> Path | None:
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
            f"({why}) nor in the local cache; use data.path=FILE, {files.SOURCES}"
        )
    return prepared


def _rows(dataset: datasets.Dataset) -> Iterator[tuple[str, object]]:
    # Through `datasets` and not its Arrow table, which may hold encoded columns
    for start in range(0, len(dataset), files.ROWS_PER_BATCH):
        stop = min(start + files.ROWS_PER_BATCH, len(dataset))
        try:
            columns = dataset[start:stop]
            rows: list[object] = [
                dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)
            ]
        except Exception:  # of a byte that is not UTF-8, a type that is not installed, ...
            rows = [_row(dataset, index) for index in range(start, stop)]
        yield from ((f"row {start + i}", row) for i, row in enumerate(rows, start=1))


def _row(dataset: datasets.Dataset, index: int) -> object:
    try:
        return dataset[index]
    except UnicodeDecodeError as error:
        return BadRow(f"invalid UTF-8 ({error.reason})")
    except Exception as error:
        return BadRow(_cause(error))


def _folder_dataset(path: Path, *, split: str) -> datasets.Dataset:
    """A folder written by save_to_disk, or one of data files; a lone Dataset has no splits."""
    datasets = _datasets()
    try:
        if (path / "dataset_dict.json").exists():
            splits = datasets.load_from_disk(str(path))
            if split not in splits:
                raise ValueError(f"no split {split!r}, only {sorted(splits)}")
            return splits[split]
        if (path / "state.json").exists():
            return datasets.load_from_disk(str(path))
        rows = datasets.load_dataset(str(path), split=split)
    except Exception as error:  # its own, the HTTP client's, a data set's code
        cause = _cause(error)
        if "split" not in cause and (fault := _fault(path)) is not None:
            raise ValueError(fault) from error
        raise ValueError(
            f"data.path={path} with data.split={split}: {cause}; use another data.split, "
            f"or one of its files as data.path to see which row is at fault"
        ) from error
    _warn_of_kinds(path)
    return rows


def _warn_of_kinds(path: Path) -> None:
    kinds = {files.suffix(file) for file in _data_files(path)}
    if len(kinds) > 1:
        log.warning(
            "data.path=%s holds %s files, and a folder is read as one kind alone; use one of its "
            "files as data.path, or a folder of one kind",
            path,
            " and ".join(sorted(kinds)),
        )


def _data_files(path: Path) -> list[Path]:
    """Files of a folder that our own readers know by name, but for what describes the folder."""
    return sorted(
        file
        for file in path.rglob("*")
        if files.suffix(file) in files.READERS and file.name not in DESCRIBING
    )


def _fault(path: Path) -> str | None:
    """What our own readers find in the first rows of a folder's files that `datasets` does not make
    one table of; None where these are alike."""
    first: tuple[Path, str] | None = None  # a file, and what its columns hold
    for file in _data_files(path):
        try:
            place, row = next(files.rows(file), ("", None))
        except ValueError as error:
            return str(error)
        if not place:
            return f"{file} has no rows; take it out of the folder"
        if isinstance(row, BadRow):
            return f"{file}, {place}: {row}"
        if not isinstance(row, Mapping):
            return f"{file}, {place}: it is not an object but {type(row).__name__}"
        columns = ", ".join(f"{key} ({type(row[key]).__name__})" for key in sorted(row))
        first = first or (file, columns)
        if columns != first[1]:
            return (
                f"data.path={path}: its files do not fit each other: {first[0].name} has "
                f"{first[1]}, {file.name} has {columns}; use one of them as data.path, or write "
                "the same columns into all"
            )
    return None


def _hub_dataset(path: str, *, split: str, revision: str | None) -> datasets.Dataset:
    datasets = _datasets()
    from datasets.packaged_modules.cache.cache import Cache

    prepared = reach_hub(path, revision=revision)
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
    except Exception as error:  # its own, the HTTP client's, a data set's code
        raise ValueError(
            f"hub dataset data.path={path} with data.split={split}, data.revision={revision}: "
            f"{_cause(error)}; use another data.split, or data.path=FILE, {files.SOURCES}"
        ) from error


def _datasets() -> ModuleType:
    """The library, without its bars: a run has its own. What its readers log it raises, too."""
    import datasets

    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    return datasets


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
        if _config_name(file) == file.parts[-4] and not file.parent.name.endswith(".incomplete")
    ]
    if len({folder.parent.parent for folder in folders}) > 1:  # as `datasets` chooses by the hub
        folders = [folder for folder in folders if folder.parts[-3] == "default"]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _config_name(info: Path) -> object:
    try:
        return json.loads(info.read_bytes())["config_name"]
    except (OSError, ValueError, LookupError, TypeError):  # of a download that was interrupted
        return None


def _cause(error: BaseException) -> str:
    """One line of the first error of a chain: `datasets` wraps the telling one in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return kind_and_line(error)
