"""Files that are complete when they exist, and folders that have one owner. No torch.

Everything is written under a temporary name in the same folder, flushed to disk and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from tspin import activity

log = logging.getLogger("tspin")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or a folder to; renamed on success.

    Flushed to disk before the rename. On failure the temporary is removed and a file at `path` is
    as it was (a folder is written once: an old one goes right before the rename). A temporary
    left by a killed process is overwritten by the next writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    remove(temporary)
    try:
        with room_for(path):
            yield temporary
            for file in [temporary] if temporary.is_file() else sorted(temporary.rglob("*")):
                if file.is_file():
                    with file.open("rb") as f:
                        os.fsync(f.fileno())
            if temporary.is_dir():
                _sync_folder(temporary)
                remove(path)
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        remove(temporary)
        raise


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """A full disk becomes one OSError that names `path` and the way out, whoever met it.

    The writers of parquet and of safetensors name no file, and the latter raises no OSError.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is None and (found := re.search(r"os error (\d+)", str(error))):
            number = int(found[1])
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        way_out = "make room and give the same command again: what is complete is kept"
        raise OSError(number, f"{os.strerror(number)}; {way_out}", str(path)) from error


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Rows to one parquet file; columns a row lacks become null."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def link(source: Path, target: Path, *, leave: Sequence[str] = ()) -> None:
    """The complete folder `source` once more as `target`, by hard links where the disk can.

    leave  names of files and folders at its top that are not taken along; hidden ones never are
    """
    with atomic(target) as temporary:
        temporary.mkdir()
        for entry in sorted(source.iterdir()):
            if not entry.name.startswith(".") and entry.name not in leave:
                if entry.is_dir():
                    shutil.copytree(entry, temporary / entry.name, copy_function=_link_file)
                else:
                    _link_file(entry, temporary / entry.name)


def _link_file(source: Any, target: Any) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_text(path, "".join(lines))


def digest(value: Any) -> str:
    """sha256 of a JSON-serialisable value, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(*paths: Path) -> str:
    """sha256 over the contents of the files, in the order given, in hex."""
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as f:
            while block := f.read(1 << 22):
                sha.update(block)
    return sha.hexdigest()


@contextmanager
def owner(folder: Path, *, wait: bool = False, what: str | None = None) -> Iterator[None]:
    """Holds `folder` for this process; the kernel lets go when the process dies, however it does.

    On a file system that several machines share its server does the same, where flock is passed on
    to it (docs/clusters.md); where flock is missing, OSError says so.
    Raises ValueError when another process holds it, or waits for it with `wait`.
    what  how people call what is held; None: by the folder
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        _acquire(lock, 0)
    except Timeout:
        who = _holder(path)
        if not wait:
            raise ValueError(
                f"{folder} is in use by another process{who}; wait for it, or give this run a name "
                "of its own (name=...)"
            ) from None
        log.info("waiting for %s, which another process%s is making", what or folder, who)
        with activity.waiting(str(what or folder)):
            _acquire(lock, -1)
        os.listdir(folder)  # on NFS this client may remember what it looked for and did not find
    try:
        with suppress(OSError):  # for people: a full disk is somebody else's to meet
            path.write_text(f"{os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, timeout: float) -> None:
    """Refuses what filelock takes instead of a missing flock: a file that outlives its owner."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it would warn of is refused below
            lock.acquire(timeout=timeout)
        missing = isinstance(lock, SoftFileLock)
    except NotImplementedError:  # older versions of filelock
        missing = True
    if missing:
        lock.release(force=True)
        raise OSError(
            errno.ENOSYS,
            "this file system has no flock, without which runs cannot keep out of each other's way "
            "(Lustre: mount with -o flock); use another runs_dir",
            lock.lock_file,
        )


def _holder(path: Path) -> str:
    """Who wrote itself down as the owner, for people."""
    try:
        who = path.read_text()
    except OSError:
        who = ""
    return f" ({who})" if who else ""


def cache() -> Path:
    """The folder of what is made once and used by all runs: $TSPIN_CACHE or ~/.cache/tspin."""
    return Path(os.environ.get("TSPIN_CACHE", "~/.cache/tspin")).expanduser()


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
