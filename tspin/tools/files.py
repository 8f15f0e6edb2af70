"""Files that are complete when they exist, and folders that have one owner. No torch.

Everything is written under a temporary name in the same folder, flushed to disk and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from tspin.tools import activity

log = logging.getLogger("tspin")
LOCK = ".lock"  # in a folder that has an owner, or had one
MOMENT = 0.5  # seconds; much more than a look of `is_owned` takes, which keeps an owner out
LARGE = 2**26  # bytes; reading less is no work, and ends within the clock of a file system
SHA256 = "sha256"  # in a JSON object
SUMS = "tspin.sha256sums"  # in a folder: digests of its files, as `sha256sum --check` reads them

_digests: dict[tuple[tuple[int, ...], ...], str] = {}  # of large files, by what they are


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
        if number is None and (match := re.search(r"os error (\d+)", str(error))):
            number = int(match[1])
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        way_out = "make room and give the same command again: what is complete is kept"
        raise OSError(number, f"{os.strerror(number)}; {way_out}", str(path)) from error


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """An object gets one key more, a digest of the others: `read_json` checks and drops it."""
    if isinstance(value, dict):
        value = {**value, SHA256: digest(json.loads(json.dumps(value)))}
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises ValueError, which names the file and the way out, for one that is damaged."""
    with whole(path):
        value = json.loads(path.read_text(encoding="utf-8"))
        sha256 = value.pop(SHA256, None) if isinstance(value, dict) else None  # None: not ours
        if sha256 is not None and sha256 != digest(value):
            raise ValueError("its values are not those that were written")
        return value


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


# What readers raise for bytes that mean nothing; types that Arrow does not have are ArrowException.
_NOT_OURS = (ValueError, TypeError, LookupError, AttributeError, pa.ArrowException)


class Damaged(ValueError):
    """A finished file whose bytes are not those that were written; see `damaged`."""


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """What reading `path` raises where its bytes are not ours becomes `damaged`'s ValueError."""
    try:
        yield
    except (FileNotFoundError, Damaged):
        raise
    except (OSError, *_NOT_OURS) as error:
        if getattr(error, "errno", None) is not None:  # the disk's own, which name the file
            raise
        raise damaged(path, error) from error
    except RecursionError:
        raise damaged(path, "nested too deep") from None


def damaged(path: Path, why: object) -> Damaged:
    """To be raised where the bytes of a finished file are not those that were written."""
    names = path.stat().st_nlink if path.is_file() else 1
    links = f", under all its {names} names (find RUNS_DIR -samefile it)," if names > 1 else ""
    return Damaged(
        f"{path} is damaged ({next(iter(str(why).splitlines()), '')[:200]}). Remove it{links} with "
        "manifest.json, eval.json and done.json beside it, as far as they are there, and give the "
        "same command again: it is made anew"
    )


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_text(path, "".join(lines))


def digest(value: Any) -> str:
    """sha256 of a JSON-serialisable value, in hex."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def digest_each(values: Iterable[Any]) -> str:
    """digest([*values]) of values of which there may be many."""
    sha = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        sha.update(b"," * (number > 0) + _canonical(value))
    sha.update(b"]")
    return sha.hexdigest()


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode()


def file_digest(*paths: Path) -> str:
    """sha256 over the contents of the files, in the order given, in hex.

    A process reads a LARGE file once for it: as long as it is the same file, of the same size and
    time of change, whatever its name is.
    """
    before = tuple(map(_identity, paths))
    if before in _digests:
        return _digests[before]
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as f:
            while block := f.read(1 << 22):
                sha.update(block)
    sha256 = sha.hexdigest()
    if sum(size for *_, size, _ in before) >= LARGE and before == tuple(map(_identity, paths)):
        _digests[before] = sha256
    return sha256


def _identity(path: Path) -> tuple[int, ...]:
    """Of a file and its state: what a rename leaves, and writing to it changes."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def sums(paths: Iterable[Path]) -> dict[str, str]:
    """Name of a file -> sha256 of its contents."""
    return {path.name: file_digest(path) for path in paths}


def write_sums(folder: Path, digests: Mapping[str, str] | None = None) -> None:
    """Digests of the files in `folder`, beside them. digests: `sums` of all of them"""
    if digests is None:
        digests = sums(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{digests[name]}  {name}\n" for name in sorted(digests)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path, part: int = 0, parts: int = 1) -> None:
    """ValueError for a folder whose files are not those of its sums, where it has any.

    The whole folder is read, or by each of several processes a part of it.
    """
    if not (folder / SUMS).exists():
        return
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines[part::parts]:
        sha256, _, name = line.partition("  ")
        file = folder / Path(name).name
        if not file.is_file() or file_digest(file) != sha256:
            raise Damaged(
                f"{folder} is damaged ({name!r:.200} is not what {SUMS} names). Remove the folder, "
                "with done.json beside it where there is one, and give the same command again: it "
                f"is made anew. What was changed on purpose is read without {SUMS}"
            )


@contextmanager
def owner(folder: Path, *, wait: bool = False, what: str | None = None) -> Iterator[None]:
    """Holds `folder` for this process; the kernel lets go when the process dies, however it does.

    On a file system that several machines share its server does the same, where flock is passed on
    to it (docs/clusters.md); where flock is missing, OSError says so.
    Raises ValueError when another process holds it, or waits for it with `wait`.
    what  how people call what is held; None: by the folder
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path)
    try:
        _acquire(lock, MOMENT)
    except Timeout:
        who = owned_by(folder)
        who = f" ({who})" if who else ""
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


def is_owned(folder: Path) -> bool:
    """Whether a process holds `folder`: a look that changes nothing and lets go at once."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # never owned, not ours to read, or without flock: no run lives there
        return False
    return False


def owned_by(folder: Path) -> str:
    """Process and machine of the owner, or of the last one, for people; empty: not known."""
    try:
        return (folder / LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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


def cache() -> Path:
    """The folder of what is made once and used by all runs: $TSPIN_CACHE or ~/.cache/tspin."""
    return Path(os.environ.get("TSPIN_CACHE", "~/.cache/tspin")).expanduser()


def flatten(tree: Mapping[str, Any], prefix: str = "", *, separator: str = ".") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}{separator}", separator=separator)
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
