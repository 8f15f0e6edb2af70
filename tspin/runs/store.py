"""What an object store holds of a run folder, and how that compares with the files here."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tspin.runs.artifacts import MIRROR, Iteration, Responses, RunDir
from tspin.tools.files import file_digest, read_json, write_json


@dataclass
class Record:
    """What a copy holds: the manifest there, and what is known of it here.

    revision  counts what was written there; who knows the newest may write the next
    files     path in the run folder -> size in bytes, sha256, and mtime_ns of what was read here
    """

    url: str
    revision: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


class Store:
    """The place of one run: sync.url/NAME. Raises what the client of the store raises."""

    def __init__(self, url: str, name: str) -> None:
        import fsspec  # here: seldom wanted

        self.url = f"{url.rstrip('/')}/{name}"
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
        except ImportError as error:
            way_out = "pip install -e '.[remote]' for s3, pip install gcsfs for gs"
            raise ValueError(f"sync.url={url}: {error} ({way_out})") from None
        except ValueError as error:  # a protocol that nobody knows
            raise ValueError(f"sync.url={url}: {error}") from None
        if hasattr(self._fs, "auto_mkdir"):  # a folder, where folders have to be made
            self._fs.auto_mkdir = True

    def record(self) -> Record | None:
        """The manifest; None where there is none. ValueError for one that we did not write."""
        try:
            text = self._fs.cat_file(self._at(MIRROR))
        except FileNotFoundError:
            return None
        try:
            manifest = json.loads(text)
            files = {
                name: {"size": int(facts["size"]), "sha256": str(facts["sha256"])}
                for name, facts in manifest["files"].items()
            }
            record = Record(self.url, int(manifest["revision"]), files)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            raise ValueError(f"{self._at(MIRROR)} is no manifest of a run's copy") from None
        for name in files:
            if not _inside(name):
                raise ValueError(f"{self._at(MIRROR)} names {name!r}, which is outside of a run")
        return record

    def write_record(self, record: Record) -> None:
        files = {
            name: {"size": facts["size"], "sha256": facts["sha256"]}
            for name, facts in sorted(record.files.items())
        }
        text = json.dumps({"revision": record.revision, "files": files}, indent=1)
        self._fs.pipe_file(self._at(MIRROR), text.encode())

    def put(self, file: Path, name: str) -> None:
        self._fs.put_file(str(file), self._at(name))

    def get(self, name: str, file: Path) -> None:
        self._fs.get_file(self._at(name), str(file))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


# --- the files here ------------------------------------------------------------------------------


def files_of(folder: RunDir) -> dict[str, Path]:
    """Path in the folder -> file, of what is complete: the rest, and our record, is hidden."""
    names = {path.relative_to(folder.path): path for path in sorted(folder.path.rglob("*"))}
    return {
        str(name): path
        for name, path in names.items()
        if path.is_file() and not any(part.startswith(".") for part in name.parts)
    }


def order(name: str) -> tuple[int, str]:
    """What says that other files are complete comes last, and metrics behind a training state."""
    path = Path(name)
    out, samples = Iteration(path.parent), Responses(path.parent)
    last = [[out.metrics, out.evaluation, samples.manifest], [out.done]]
    return next((rank for rank, files in enumerate(last, 1) if path in files), 0), name


def _inside(name: str) -> bool:
    """Whether it is a path below the folder that it is joined with."""
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or "\0" in name
    return bool(path.parts) and not bad


def same(path: Path, facts: dict[str, Any]) -> bool:
    """Whether it is the file of the manifest."""
    return size_of(path) == facts["size"] and file_digest(path) == facts["sha256"]


def known(path: Path, facts: dict[str, Any] | None) -> bool:
    """Whether it was there, and not written since: without reading it."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    state = (stat.st_size, stat.st_mtime_ns)
    return facts is not None and state == (facts["size"], facts.get("mtime_ns"))


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def read_record(folder: RunDir, store: Store) -> Record | None:
    """What is known here of the copy in `store`."""
    record = Record(**read_json(folder.mirror)) if folder.mirror.exists() else None
    return record if record is not None and record.url == store.url else None


def write_record(folder: RunDir, record: Record) -> None:
    write_json(folder.mirror, asdict(record))
