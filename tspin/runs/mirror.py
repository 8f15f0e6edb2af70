"""A run folder's copy in an object store: s3://, gs://, whatever fsspec knows (sync.url).

A run works on a local disk: it needs locks, atomic renames and hard links, which no object store
has. A thread copies what is complete, every `sync.seconds` and at the end, and lists it in a
manifest, written last: what that does not name is not there yet. On another machine `fetch` brings
it back before the run begins, and the same command goes on.

The store may fail at any time: the run does not wait for it, and says at the end what is missing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tspin.config.run import SyncConfig
from tspin.runs.artifacts import CHECKPOINT, TRACKER, TRAIN_STATE, Iteration, RunDir
from tspin.runs.store import (
    Record,
    Store,
    files_of,
    known,
    order,
    read_record,
    same,
    size_of,
    write_record,
)
from tspin.tools.files import atomic, file_digest, owner, remove
from tspin.tools.signals import Preempted

log = logging.getLogger("tspin")


class Overtaken(Exception):
    """Another machine has written to the same place since."""


# --- from there ----------------------------------------------------------------------------------


def fetch(sync: SyncConfig, folder: RunDir, *, iterations: int) -> None:
    """Makes `folder` what the store holds, where another machine has gone further than this one.

    iterations  of the whole run
    Raises ValueError where it cannot be known how far the run is, where both sides hold a run of
    this name and neither is the other's copy, and where the copy lacks the weights to go on from.
    """
    if sync.url is None:
        return
    store = Store(sync.url, folder.path.name)
    ours = read_record(folder, store)
    try:
        theirs = store.record()
    except Exception as error:  # whatever the client raises
        if ours is None and not folder.config.exists():
            raise ValueError(
                f"{store.url} cannot be read, and may hold this run: {_line(error)}; mend that, or "
                "begin without it (sync.url=null)"
            ) from error
        log.warning("%s cannot be read: %s; going on from the files here", store.url, _line(error))
        return
    if theirs is None or (ours is not None and theirs.revision <= ours.revision):
        return
    if ours is None and folder.config.exists():
        raise ValueError(
            f"{folder.path} and {store.url} both hold a run and neither is the other's copy; give "
            "this one a name of its own (name=...) or another sync.url, or move one of them away"
        )
    with owner(folder.path):
        _take(store, theirs, folder)
    newest = max(folder.iterations(), default=None)
    if newest is not None and newest + 1 < iterations:
        if not folder.iteration(newest).checkpoint.exists():
            raise ValueError(
                f"{store.url} has the results of iteration {newest} without its weights "
                "(sync.checkpoints=none): the run cannot go on from there"
            )


def _take(store: Store, theirs: Record, folder: RunDir) -> None:
    size = sum(facts["size"] for facts in theirs.files.values())
    log.info("taking %s: %d files, %.3g GB", store.url, len(theirs.files), size / 1e9)
    unfinished = [folder.iteration(t).path for t in folder.begun()]
    for name, path in files_of(folder).items():
        if name not in theirs.files and any(out in path.parents for out in unfinished):
            remove(path)  # begun here, gone on with elsewhere
    units: dict[Path, list[str]] = {}  # a checkpoint is there as a whole or not at all
    for name in sorted(theirs.files, key=order):
        path = folder.path / name
        whole = next((p for p in path.parents if p.name == CHECKPOINT), path)
        units.setdefault(whole, []).append(name)
    for path, names in units.items():
        if all(same(folder.path / name, theirs.files[name]) for name in names):
            continue
        with atomic(path) as temporary:
            for name in names:
                file = temporary / (folder.path / name).relative_to(path)
                file.parent.mkdir(parents=True, exist_ok=True)
                store.get(name, file)
                if not same(file, theirs.files[name]) and path.suffix in ("", ".parquet"):
                    raise ValueError(f"{store.url}/{name} is not the file that was copied there")
        # A file that is written anew or grows may be newer than the manifest. A training state
        # must not be: the metrics beside it may not reach so far.
        if TRAIN_STATE in path.parts and not same(path, theirs.files[names[0]]):
            remove(path)
    for name, facts in theirs.files.items():
        if same(folder.path / name, facts):
            facts["mtime_ns"] = (folder.path / name).stat().st_mtime_ns
    write_record(folder, theirs)


# --- to there ------------------------------------------------------------------------------------


@contextmanager
def mirrored(sync: SyncConfig, folder: RunDir, *, grace: float) -> Iterator[None]:
    """Copies `folder` to the store while the block runs, and what is left at its end.

    grace  seconds that the end may take where the machine is wanted back
    """
    if sync.url is None:
        yield
        return
    mirror = Mirror(sync, folder)
    thread = threading.Thread(target=mirror.run, daemon=True)
    thread.start()
    patience = None
    try:
        yield
    except Preempted:
        patience = grace
        raise
    finally:
        mirror.finish.set()
        thread.join(patience)
        mirror.say()


class Mirror:
    """The thread's work. finish: set when the run has ended; one more pass follows."""

    def __init__(self, sync: SyncConfig, folder: RunDir) -> None:
        assert sync.url is not None
        self.sync, self.folder = sync, folder
        self.store = Store(sync.url, folder.path.name)
        self.finish = threading.Event()
        self.missing: dict[str, int] = {}  # path -> bytes, of what is not there yet
        self.problem: str | None = None  # of the last pass

    def run(self) -> None:
        last = False
        while not last:
            last = self.finish.wait(self.sync.seconds)
            try:
                self.copy()
                if self.problem is not None:
                    log.info("%s: everything is there again", self.store.url)
                self.problem = None
            except Overtaken:
                self.problem = "another machine goes on with this run there"
                log.warning("%s: %s; nothing more is copied", self.store.url, self.problem)
                return
            except Exception as error:  # the run does not depend on the store
                if self.problem is None:  # said once
                    log.warning(
                        "%s: %s; the run goes on, and what is missing there is tried again",
                        self.store.url, _line(error),
                    )  # fmt: skip
                self.problem = _line(error)

    def copy(self) -> None:
        """One pass: what is new here, what says that others are complete last, the manifest."""
        theirs = self.store.record()
        ours = read_record(self.folder, self.store)
        if ours is None or theirs is None:
            ours = Record(self.store.url)
        if theirs is not None and theirs.revision > ours.revision:
            raise Overtaken
        found = self._found()
        changed = {name for name, path in found.items() if not known(path, ours.files.get(name))}
        gone = [name for name in ours.files if name not in found and not self._kept(name)]
        self.missing = {name: size_of(found[name]) for name in changed}
        if not changed and not gone and theirs is not None and theirs.revision == ours.revision:
            return
        for name in sorted(changed, key=order):
            with suppress(_Vanished):
                ours.files[name] = self._put(found[name], name, ours.files.get(name))
            del self.missing[name]
        for name in gone:
            del ours.files[name]
        ours.revision += 1
        write_record(self.folder, ours)  # first: a manifest of ours must not look like another's
        self.store.write_record(ours)
        for name in gone:
            self.store.remove(name)

    def _put(self, path: Path, name: str, there: dict[str, Any] | None) -> dict[str, Any]:
        """Copies what differs from what is there. -> facts for the manifest"""
        try:
            stat, sha256 = path.stat(), file_digest(path)
            if there is None or (there["size"], there["sha256"]) != (stat.st_size, sha256):
                self.store.put(path, name)
        except FileNotFoundError:  # also what some stores raise
            if path.exists():
                raise
            raise _Vanished from None
        return {"size": stat.st_size, "sha256": sha256, "mtime_ns": stat.st_mtime_ns}

    def say(self) -> None:
        """At the end of a run, what is not there."""
        if self.missing or self.problem:
            names = sorted(self.missing)
            log.warning(
                "%s lacks %d files, %.3g GB (%s): %s; the same command copies them",
                self.store.url, len(names), sum(self.missing.values()) / 1e9,
                ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])]) or "the manifest",
                self.problem or "there was no time left",
            )  # fmt: skip

    def _found(self) -> dict[str, Path]:
        """The files to copy. Listed until two lists agree.

        What is written later counts on what was written before, and a list that is made while
        files appear might have the later ones alone.
        """
        before, now = None, files_of(self.folder)
        while now != before:
            before, now = now, files_of(self.folder)
        newest = max(self.folder.iterations(), default=0)
        return {name: path for name, path in now.items() if self._wanted(path, newest)}

    def _wanted(self, path: Path, newest: int) -> bool:
        first, *inside = path.relative_to(self.folder.path).parts
        if TRAIN_STATE in inside:  # not of shards: they are complete together or not at all
            return self.sync.train_state and path.parent.name == TRAIN_STATE
        if CHECKPOINT in inside and self.sync.checkpoints == "last":
            return Iteration(self.folder.path / first).t >= newest
        if CHECKPOINT in inside and self.sync.checkpoints == "none":
            return False
        return first not in (TRACKER, self.folder.heartbeat.name)

    def _kept(self, name: str) -> bool:
        """Whether the store keeps what is not here any more.

        People make room on a disk because there is a copy. A training state is of no more use, and
        selfplay.keep is what they want of checkpoints, there too.
        """
        first, *inside = Path(name).parts
        if CHECKPOINT in inside and Iteration(self.folder.path / first).removed.exists():
            return False
        return not (
            TRAIN_STATE in inside or (CHECKPOINT in inside and self.sync.checkpoints == "last")
        )


class _Vanished(Exception):
    """A file of an earlier list, removed since by the run."""


def _line(error: Exception) -> str:
    """The first line of what it says, or its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
