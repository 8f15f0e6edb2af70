"""A run as the words that make it, and what is done of it: read from its folder.

No counters and no torch. Which iterations are equal by definition is said by `history`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from tspin.config.identity import IDENTITY_FREE, history
from tspin.config.load import dump, load
from tspin.config.run import Run
from tspin.config.shift import WAYS
from tspin.runs import start
from tspin.runs.artifacts import Iteration, RunDir, run_dirs
from tspin.tools.files import digest, flatten, read_json

# Of an iteration's history: what says what is trained, not how long that takes.
TIMELESS = ("objective", "optim.lr", "seed", "data.seed")
# Keys (or sections) that decide how the initial policy is sampled and evaluated.
SAMPLING = (
    *("runs_dir", "model.", "data.", "decoding.", "seed"),
    *("compute.device", "compute.dtype", "optim.precision"),
)

PLAIN = re.compile(r"[A-Za-z]\w*(-\w+)+")  # a name that Hydra takes as a text without quotes

Kind = tuple[Any, ...]  # (what costs time, objective, whether it samples): iterations alike in time


@dataclass(frozen=True)
class Point:
    """One run of a sweep, and the words that make it."""

    words: tuple[str, ...]
    run: Run

    @property
    def launch_words(self) -> list[str]:
        """The words for a launcher, with the name and the tags said: nobody works them out anew."""
        name, tags = self.run.name, json.dumps(self.run.track.tags)
        own = {"name": name if PLAIN.fullmatch(name) else f"'{name}'", "track.tags": tags}
        kept = [word for word in self.words if key(word) not in own]
        return [*kept, *map("=".join, own.items())]

    @property
    def folder(self) -> RunDir:
        return RunDir(self.run.folder)

    @property
    def last(self) -> Iteration:
        """The iteration whose policy is the point's result."""
        return self.folder.iteration(self.iterations[-1])

    @property
    def iterations(self) -> range:
        first = 0
        if self.run.selfplay.start_from is not None:
            match = re.search(r"_(\d+)/*$", self.run.selfplay.start_from)
            first = int(match[1]) + 1 if match else 0  # selfplay refuses what is no iteration
        return range(first, self.run.selfplay.iterations)

    @cached_property
    def _history(self) -> list[dict[str, Any]]:
        try:
            asked = start.as_asked(self.run, self.folder)
        except (ValueError, TypeError, LookupError, AttributeError):  # a file that is damaged
            asked = self.run
        return history(asked, asked.selfplay.iterations - 1)

    @cached_property
    def histories(self) -> list[str]:
        """Per iteration a digest; where it is equal, in one runs_dir, the iteration is the same."""
        return [digest(self._history[: t + 1]) for t in range(len(self._history))]

    @cached_property
    def kinds(self) -> list[Kind]:
        """Per iteration what it takes about as long as."""
        return [
            (
                digest({name: facts[name] for name in facts if name not in TIMELESS}),
                facts["objective"][0],
                t > 0,
            )
            for t, facts in enumerate(self._history)
        ]

    @cached_property
    def sampling(self) -> tuple[str, int | None]:
        """What the base evaluation is made from, as a digest; y0 is for data.size prompts more."""
        facts = flatten(dump(self.run))
        size = facts.pop("data.size")
        for way in WAYS:  # which rows are trained on
            facts.pop(f"data.shift.{way}")
        return digest({name: facts[name] for name in facts if name.startswith(SAMPLING)}), size


def distinct(points: Iterable[Point], sweep: str | None) -> list[Point]:
    """Each point once, tagged with the name of the sweep, to find it by in the tracker.

    ValueError where two different runs would have one name.
    """
    by_folder: dict[Path, Point] = {}
    for point in points:
        run = start.as_begun(point.run, point.folder)
        if sweep is not None:
            tags = list(dict.fromkeys([sweep, *run.track.tags]))
            run = replace(run, track=replace(run.track, tags=tags))
        known = by_folder.setdefault(run.folder, replace(point, run=run)).run
        if known != run:
            values, others = flatten(dump(known)), flatten(dump(run))
            differ = {k for k in {**values, **others} if values.get(k) != others.get(k)}
            if all(k.startswith(IDENTITY_FREE) for k in differ):
                keys = ", ".join(sorted(differ))
                raise ValueError(f"{keys} makes no run of its own: one value for {run.name}")
            raise ValueError(f"name={run.name} is one name for different runs; leave it out")
    return list(by_folder.values())


def facts_of(point: Point) -> dict[int, dict[str, Any]]:
    """t -> facts of the point's finished iterations.

    Nothing where its folder holds a run with another history: selfplay will refuse that.
    """
    known = stored(point.folder)
    if known is None:
        return {}
    facts = {
        t: _facts(point.folder.iteration(t))
        for t in point.folder.iterations()
        if t in point.iterations and known.histories[t : t + 1] == [point.histories[t]]
    }
    return {t: of_one for t, of_one in facts.items() if of_one is not None}


def _facts(out: Iteration) -> dict[str, Any] | None:
    """done.json of a finished iteration; its benchmarks' time is among the seconds.

    None where it cannot be read, or is no longer there: who looks on holds no lock.
    """
    try:
        facts: dict[str, Any] = read_json(out.done)
        if out.evaluation.exists() and (tasks := read_json(out.evaluation).get("benchmarks")):
            facts["seconds"]["benchmarks"] = sum(task["seconds"] for task in tasks.values())
        sum(facts["seconds"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return facts


def others(points: Sequence[Point]) -> Iterator[Point]:
    """The other runs in the same places."""
    names = {point.run.folder for point in points}
    for place in dict.fromkeys(point.run.folder.parent for point in points):
        for folder in run_dirs(place):
            if folder.path not in names and (point := stored(folder)) is not None:
                yield point


def stored(folder: RunDir) -> Point | None:
    """The run in a folder, as its config.yaml says; None without one, for one of an older version,
    or of another name.
    """
    try:
        point = _stored(folder.config, folder.config.stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    return point if point is not None and point.run.name == folder.path.name else None


@cache
def _stored(file: Path, mtime: int) -> Point | None:
    """mtime: the state of the file, in ns"""
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
        # The folder may have moved since.
        return Point((), load(tree | {"runs_dir": str(file.parent.parent)}))
    except (ValueError, TypeError, yaml.YAMLError, RecursionError):
        return None


def key(word: str) -> str:
    """What a word sets: coef.alpha of ++coef.alpha=0.3."""
    return word.lstrip("+").split("=", 1)[0]
