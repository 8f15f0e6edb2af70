"""A run folder's copy in an object store: s3://, gs://, whatever fsspec knows (sync.url).

A run works on a local disk: it needs locks, atomic renames and hard links, which no object store
has. What is complete is copied after each iteration, after each saved training state and at the
end, and listed in a manifest, written last: what that does not name is not there yet. On another
machine `fetch` brings it back before the run begins, and the same command goes on.

The store may fail at any time: the run goes on, and says at the end what is missing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tspin.config.run import SyncConfig
from tspin.runs.artifacts import CHECKPOINT, TRACKERS, TRAIN_STATE, Iteration, RunDir
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
from tspin.tools.log import first_line
from tspin.tools.signals import Preempted

log = logging.getLogger("tspin")


class Overtaken(Exception):
    """Another machine has written to the same place since."""


class OutOfTime(BaseException):
    """Not an Exception: who handles failures of the store must not take it for one."""


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
                f"{store.url} cannot be read, and may hold this run: {first_line(error)}; mend "
                "that, or begin without it (sync.url=null)"
            ) from error
        log.warning(
            "%s cannot be read: %s; going on from the files here", store.url, first_line(error)
        )
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
def mirrored(sync: SyncConfig, folder: RunDir, *, grace: float) -> Iterator[Callable[[], None]]:
    """Inside, what is given copies what is new in `folder`; at the end it is called once more.

    grace  seconds that the end may take where the machine is wanted back
    """
    if sync.url is None:
        yield lambda: None
        return
    mirror = Mirror(sync, folder)
    limit = None
    try:
        yield mirror.push
    except Preempted:
        limit = grace
        raise
    finally:
        try:
            with _at_most(limit):
                mirror.push()
        except OutOfTime:
            mirror.problem = "there was no time left"
        mirror.report()


class Mirror:
    """A folder's copy.

    missing  path -> bytes, of what is not there yet
    problem  of the last push
    """

    def __init__(self, sync: SyncConfig, folder: RunDir) -> None:
        assert sync.url is not None
        self.sync, self.folder = sync, folder
        self.store = Store(sync.url, folder.path.name)
        self.missing: dict[str, int] = {}
        self.problem: str | None = None
        self.overtaken = False

    def push(self) -> None:
        """Copies what is new. A store that fails is said once, and tried again at the next push."""
        if self.overtaken:
            return
        try:
            self.copy()
            if self.problem is not None:
                log.info("%s: everything is there again", self.store.url)
            self.problem = None
        except Overtaken:
            self.overtaken = True
            self.problem = "another machine goes on with this run there"
            log.warning("%s: %s; nothing more is copied", self.store.url, self.problem)
        except Exception as error:  # the run does not depend on the store
            if self.problem is None:
                log.warning(
                    "%s: %s; the run goes on, and what is missing there is tried again",
                    self.store.url, first_line(error),
                )  # fmt: skip
            self.problem = first_line(error)

    def copy(self) -> None:
        """One pass: what is new here, what says that others are complete last, the manifest."""
        theirs = self.store.record()
        ours = read_record(self.folder, self.store)
        if ours is None or theirs is None:
            ours = Record(self.store.url)
        if theirs is not None and theirs.revision > ours.revision:
            raise Overtaken
        files = self._files()
        changed = {name for name, path in files.items() if not known(path, ours.files.get(name))}
        gone = [name for name in ours.files if name not in files and not self._kept(name)]
        self.missing = {name: size_of(files[name]) for name in changed}
        if not changed and not gone and theirs is not None and theirs.revision == ours.revision:
            return
        for name in sorted(changed, key=order):
            ours.files[name] = self._put(files[name], name, ours.files.get(name))
            del self.missing[name]
        for name in gone:
            del ours.files[name]
        ours.revision += 1
        write_record(self.folder, ours)  # first: a manifest of ours must not look like another's
        self.store.write_record(ours)
        for name in gone:
            self.store.remove(name)

    def _put(self, path: Path, name: str, copied: dict[str, Any] | None) -> dict[str, Any]:
        """Copies what differs from what is there. -> facts for the manifest"""
        stat, sha256 = path.stat(), file_digest(path)
        if copied is None or (copied["size"], copied["sha256"]) != (stat.st_size, sha256):
            self.store.put(path, name)
        return {"size": stat.st_size, "sha256": sha256, "mtime_ns": stat.st_mtime_ns}

    def report(self) -> None:
        """At the end of a run, what is not there."""
        if self.problem is not None:
            names = sorted(self.missing)
            log.warning(
                "%s lacks %d files, %.3g GB (%s): %s; the same command copies them",
                self.store.url, len(names), sum(self.missing.values()) / 1e9,
                ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])]) or "the manifest",
                self.problem,
            )  # fmt: skip

    def _files(self) -> dict[str, Path]:
        """The files to copy."""
        newest = max(self.folder.iterations(), default=0)
        return {n: path for n, path in files_of(self.folder).items() if self._wanted(path, newest)}

    def _wanted(self, path: Path, newest: int) -> bool:
        first, *inside = path.relative_to(self.folder.path).parts
        if TRAIN_STATE in inside:  # not of shards: they are complete together or not at all
            return self.sync.train_state and path.parent.name == TRAIN_STATE
        if CHECKPOINT in inside and self.sync.checkpoints != "all":
            last = self.sync.checkpoints == "last"
            return last and Iteration(self.folder.path / first).t >= newest
        return first not in (*TRACKERS, self.folder.heartbeat.name, self.folder.errors.name)

    def _kept(self, name: str) -> bool:
        """Whether the store keeps what is not here any more.

        People make room on a disk because there is a copy. A training state is of no more use, and
        selfplay.keep is what they want of checkpoints, there too.
        """
        first, *inside = Path(name).parts
        if CHECKPOINT in inside:
            removed = Iteration(self.folder.path / first).removed.exists()
            return not removed and self.sync.checkpoints != "last"
        return TRAIN_STATE not in inside


@contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """OutOfTime for what takes longer; only in the main thread, which alone has signals."""
    if seconds is None:
        yield
        return

    def over(*_: object) -> None:
        raise OutOfTime

    former = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))  # 0 would set no alarm
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
