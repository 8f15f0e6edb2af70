"""Where annotated rows are: a file, a folder of `datasets`, or a hub data set.

Knows which of them a path means, not what a row means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from tspin.data import files, hf_datasets
from tspin.data.files import SOURCES


def check_reachable(path: str, *, revision: str | None = None) -> None:
    """Raise ValueError if the source is not there: to be asked before anything heavy is loaded.

    A local file or folder must be readable; a hub dataset must answer within hub.SECONDS or be in
    the local cache. With HF_HUB_OFFLINE or HF_DATASETS_OFFLINE only the cache counts.
    """
    local = _local(path)
    if local is None:
        hf_datasets.reach_hub(path, revision=revision)
    elif not os.access(local, os.R_OK | (os.X_OK if local.is_dir() else 0)):
        raise ValueError(f"data.path={path} may not be read by this user; change its permissions")
    elif local.is_dir():
        hf_datasets.check_folder(local)


def rows(
    path: str, *, split: str, revision: str | None, columns: Collection[str] = ()
) -> Iterator[tuple[str, object]]:
    """(place, row) of a source, places counting from 1; a row that cannot be read is a BadRow.

    columns  as in files.rows
    """
    local = _local(path)
    if local is None:
        return hf_datasets.hub_rows(path, split=split, revision=revision)
    if local.is_dir():
        return hf_datasets.folder_rows(local, split=split)
    return files.rows(local, columns=columns)


def _local(path: str) -> Path | None:
    """The path as a readable kind of file or folder, None for a hub id, ValueError for neither."""
    if not path:
        raise ValueError(f"data.path is not set; use {SOURCES}, or a hub id owner/name")
    local = Path(os.path.expanduser(path))
    if os.path.isdir(local):
        return local
    if os.path.exists(local):
        if files.suffix(local) not in files.READERS:
            raise ValueError(f"data.path={path} is a kind of file that is not read; use {SOURCES}")
        return local
    is_hub_id = re.fullmatch(r"[^/.~\s][^/\s]*/[^/\s]+", path)
    if is_hub_id and files.suffix(local) not in files.READERS:
        return None
    raise ValueError(f"data.path={path}: no such file; use {SOURCES}, or a hub id owner/name")
