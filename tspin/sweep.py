"""What a sweep is about to do, how far it is, what came of it: read from the folders of its runs.

No counters and no torch: a point is done when its files are there, so a sweep that was killed goes
on, and one that is complete says so at once. Which iterations are equal by definition is said by
`Run.history`; selfplay links them, here they are counted.
"""

from __future__ import annotations

import json
import logging
import re
import statistics
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from tspin import benchmark, config
from tspin.artifacts import Iteration, RunDir, run_dirs
from tspin.config import IDENTITY_FREE, Run, dump
from tspin.console import table
from tspin.files import digest, flatten, read_json
from tspin.words import key

log = logging.getLogger("tspin")

# Of an iteration's history: what says what is trained, not how long that takes.
TIMELESS = ("objective", "optim.lr", "seed", "data.seed")
# Keys (or sections) that decide how the initial policy is sampled and evaluated.
SAMPLING = (
    *("runs_dir", "model.", "data.", "decoding.", "seed"),
    *("compute.device", "compute.dtype", "optim.precision"),
)
ITERATIONS = "selfplay.iterations"  # in the tables anyway: "1 of 2"
COLUMNS = ("point", "run", "state", "iterations", "shared", "average", "accuracy", "minutes", "why")

Kind = tuple[Any, ...]  # (what costs time, objective, whether it samples): iterations alike in time


@dataclass(frozen=True)
class Point:
    """One run of a sweep, and the words that make it."""

    words: tuple[str, ...]
    run: Run

    @property
    def launch_words(self) -> list[str]:
        """The words for a launcher, with the name and the tags said: nobody works them out anew."""
        own = {"name": f"'{self.run.name}'", "track.tags": json.dumps(self.run.track.tags)}
        kept = [word for word in self.words if key(word) not in own]
        return [*kept, *(f"{name}={value}" for name, value in own.items())]

    @property
    def folder(self) -> RunDir:
        return RunDir(self.run.folder)

    @property
    def iterations(self) -> range:
        first = 0
        if self.run.selfplay.start_from is not None:
            found = re.search(r"_(\d+)/*$", self.run.selfplay.start_from)
            first = int(found[1]) + 1 if found else 0  # selfplay refuses what is no iteration
        return range(first, self.run.selfplay.iterations)

    @cached_property
    def histories(self) -> list[str]:
        """Per iteration a digest; where it is equal, in one runs_dir, the iteration is the same."""
        history = self.run.history(self.run.selfplay.iterations - 1)
        return [digest(history[: t + 1]) for t in range(len(history))]

    @cached_property
    def kinds(self) -> list[Kind]:
        """Per iteration what it takes about as long as."""
        return [
            (
                digest({name: facts[name] for name in facts if name not in TIMELESS}),
                facts["objective"][0],
                t > 0,
            )
            for t, facts in enumerate(self.run.history(self.run.selfplay.iterations - 1))
        ]

    @cached_property
    def sampling(self) -> tuple[str, int | None]:
        """What the base evaluation is made from, as a digest; y0 is for data.size prompts more."""
        facts = flatten(dump(self.run))
        size = facts.pop("data.size")
        return digest({name: facts[name] for name in facts if name.startswith(SAMPLING)}), size


@dataclass(frozen=True)
class Step:
    """Iteration t of a point.

    source   the run that it is, or will be, linked from; None: trained by the point itself
    seconds  of its stages, where they were run; None: not done
    """

    t: int
    kind: Kind
    source: str | None
    seconds: float | None

    @property
    def done(self) -> bool:
        return self.seconds is not None


@dataclass(frozen=True)
class Item:
    """A point as the folders say it is."""

    number: int  # from 1, as typed
    point: Point
    steps: tuple[Step, ...]
    complete: bool

    @property
    def name(self) -> str:
        return self.point.run.name


@dataclass(frozen=True)
class Plan:
    """The points of a sweep and what the folders said of them when it was made.

    leaders  names of the points that make an iteration which others of the plan wait for
    timed    seconds of finished iterations by kind, and by each beginning of a kind
    """

    name: str
    items: tuple[Item, ...]
    leaders: frozenset[str]
    timed: Mapping[Kind, Sequence[float]]

    @property
    def points(self) -> list[Point]:
        return [item.point for item in self.items]

    @property
    def num_done(self) -> int:
        return sum(item.complete for item in self.items)

    def to_run(self) -> list[Point]:
        """Unfinished points: first those that others wait for, otherwise as typed."""
        todo = [item for item in self.items if not item.complete]
        return [x.point for x in sorted(todo, key=lambda item: item.name not in self.leaders)]

    def seconds(self, steps: Sequence[Step]) -> float | None:
        """Estimated time to train `steps`, one after the other; None without one to go by.

        Median of the finished iterations most like each: the same settings and objective, the same
        settings, the same objective, any.
        """
        total = 0.0
        for step in steps:
            cost, objective, samples = step.kind
            alike: tuple[Kind, ...] = (step.kind, (cost,), (objective, samples), ())
            known = next((self.timed[kind] for kind in alike if kind in self.timed), None)
            if known is None:
                return None
            total += statistics.median(known)
        return total

    @property
    def steps(self) -> list[Step]:
        return [step for item in self.items for step in item.steps]

    @property
    def to_train(self) -> list[Step]:
        return [step for step in self.steps if not step.done and step.source is None]

    # --- what people read -----------------------------------------------------------------

    def describe(self) -> str:
        """The plan in a line, what its points share from the start, and a table of them."""
        groups = len({item.point.sampling for item in self.items})
        shared = "by all" if groups == 1 else f"in each of {groups} groups of points"
        between = f"base evaluation and y0 are shared {shared}\n" if len(self.items) > 1 else ""
        return f"{self.line()}\n{between}\n{self.table()}"

    def line(self) -> str:
        num, done = len(self.items), self.num_done
        if done == num:
            return f"{self.name}: {_count(num, 'point')}, all done: nothing to run"
        shared = sum(step.source is not None for step in self.steps)
        parts = [
            f"{_count(num, 'point')}, {done} done, {num - done} to run",
            f"{_count(len(self.steps), 'iteration')}, {shared} of them shared, "
            f"{len(self.to_train)} to train",
            _about(self.seconds(self.to_train), "time unknown until an iteration is done"),
        ]
        return f"{self.name}: {'; '.join(parts)}"

    def table(self) -> str:
        """One row per point: what it differs by, how far it is, what it shares with whom."""
        numbers = {item.name: item.number for item in self.items}
        rows = []
        for item, differs in zip(self.items, self._differences(), strict=True):
            shared = [
                f"{step.t} from {numbers.get(step.source, step.source)}"
                for step in item.steps
                if step.source is not None
            ]
            rows.append(
                {"point": item.number, **differs}
                | {"state": _state(item), "iterations": _progress(item)}
                | {"shared": ", ".join(shared) or None}
            )
        return table("Points", rows, first=("point",))

    def progress(self, *, since: Plan, elapsed: float) -> str:
        """How far the sweep is, and how long it takes from here at the pace so far.

        since    the plan when it began
        elapsed  seconds from then; iterations that run side by side make the pace faster
        """
        left = self.seconds(self.to_train)
        before = {(item.name, step.t) for item in since.items for step in item.steps if step.done}
        fresh = [
            step
            for item in self.items
            for step in item.steps
            if step.done and step.source is None and (item.name, step.t) not in before
        ]
        achieved = self.seconds(fresh)
        if left is not None and achieved:
            left *= elapsed / achieved
        known = _about(left, "time left unknown", "left")
        return f"{self.name}: {self.num_done} of {_count(len(self.items), 'point')} done, {known}"

    def summary(self, failed: Mapping[str, str]) -> str:
        """The table at the end and what sharing saved. failed: name of a run -> why, in one line"""
        rows = []
        for item, differs in zip(self.items, self._differences(), strict=True):
            own = [step.seconds for step in item.steps if step.source is None]
            rows.append(
                {"point": item.number, **differs}
                | {"state": "failed" if item.name in failed else _state(item)}
                | _worth(item.point.folder.iteration(item.point.iterations[-1]))
                | {"minutes": round(sum(filter(None, own)) / 60, 2)}
                | {"why": failed.get(item.name)}
            )
        return f"{table(self.name, rows, first=('point',))}\n\n{self.saving()}"

    def saving(self) -> str:
        """What was shared, and how long it took where it was made."""
        linked = [step for step in self.steps if step.done and step.source is not None]
        took = duration(sum(step.seconds or 0.0 for step in linked))
        bases = [p.sampling[0] for p in self.points if p.folder.base.evaluation.exists()]
        protos = [p.sampling for p in self.points if p.folder.proto.exists()]
        return (
            f"shared: {_count(len(linked), 'iteration')} ({took} where they were trained), "
            f"{_count(len(bases) - len({*bases}), 'base evaluation')}, "
            f"{_count(len(protos) - len({*protos}), 'set')} of y0"
        )

    def _differences(self) -> list[dict[str, str]]:
        """Per point the words in which the points differ; of a single point its name."""
        if len(self.items) == 1:
            return [{"run": self.items[0].name}]
        said = [{key(w): w.split("=", 1)[1] for w in item.point.words} for item in self.items]
        keys = list(dict.fromkeys(k for words in said for k in words))
        keys = [k for k in keys if len({words.get(k) for words in said}) > 1 and k != ITERATIONS]
        last = [k.rsplit(".", 1)[-1] for k in keys]
        short = {
            k: word if last.count(word) == 1 and word not in COLUMNS else k
            for k, word in zip(keys, last, strict=True)
        }
        return [{short[k]: words[k] for k in keys if k in words} for words in said]


def distinct(points: Iterable[Point], sweep: str | None) -> list[Point]:
    """Each point once, tagged with the name of the sweep, to find it by in the tracker.

    ValueError where two different runs would have one name.
    """
    found: dict[Path, Point] = {}
    for point in points:
        run = point.run
        if sweep is not None:
            tags = list(dict.fromkeys([sweep, *run.track.tags]))
            run = replace(run, track=replace(run.track, tags=tags))
        known = found.setdefault(run.folder, replace(point, run=run)).run
        if known != run:
            values, others = flatten(dump(known)), flatten(dump(run))
            differ = {k for k in {**values, **others} if values.get(k) != others.get(k)}
            if all(k.startswith(IDENTITY_FREE) for k in differ):
                keys = ", ".join(sorted(differ))
                raise ValueError(f"{keys} makes no run of its own: one value for {run.name}")
            raise ValueError(f"name={run.name} is one name for different runs; leave it out")
    return list(found.values())


def plan(name: str, points: Sequence[Point]) -> Plan:
    """Reads the folders. name: what the sweep is called."""
    done = {point.run.name: _done(point) for point in points}
    todo = any(len(done[point.run.name]) < len(point.iterations) for point in points)
    found = [(point, done[point.run.name]) for point in points]
    found += [(other, _done(other)) for other in _others(points)] if todo else []
    made: dict[tuple[Path, str], str] = {}  # iteration -> the run that has it, or will
    timed: dict[Kind, list[float]] = {}
    costs = {kind[0] for point in points for kind in point.kinds}
    for point, finished in found:
        for t, facts in finished.items():
            if not point.folder.iteration(t).removed.exists():  # else selfplay trains it, mostly
                made.setdefault((point.run.folder.parent, point.histories[t]), point.run.name)
            cost, objective, samples = point.kinds[t]
            if "from" not in facts and facts["seconds"] and cost in costs:
                for kind in (point.kinds[t], (cost,), (objective, samples), ()):
                    timed.setdefault(kind, []).append(sum(facts["seconds"].values()))
    items, leaders = [], set()
    for number, point in enumerate(points, 1):
        steps = []
        for t in point.iterations:
            if t in done[point.run.name]:
                facts = done[point.run.name][t]
                source = facts["from"].rsplit("/", 1)[0] if "from" in facts else None
                steps.append(Step(t, point.kinds[t], source, sum(facts["seconds"].values())))
                continue
            iteration = (point.run.folder.parent, point.histories[t])
            source = made.setdefault(iteration, point.run.name)
            if source == point.run.name or not point.run.selfplay.share:
                source = None
            elif source in done and t not in done[source]:
                leaders.add(source)
            steps.append(Step(t, point.kinds[t], source, None))
        complete = all(step.done for step in steps) and not _lacks_benchmarks(point)
        items.append(Item(number, point, tuple(steps), complete))
    return Plan(name, tuple(items), frozenset(leaders), timed)


def announce(points: Sequence[Point]) -> None:
    """Claims the folders of points that share, but keep not all of their checkpoints.

    An unfinished run is who an iteration is kept for that several begin with (tspin.keep).
    """
    for point in points:
        if point.run.selfplay.share and point.run.selfplay.keep != "all":
            with suppress(ValueError):  # another configuration there: the point itself will say so
                point.folder.claim(dump(point.run), free=IDENTITY_FREE)


@contextmanager
def progress(begun: Plan, *, every: float = 2.0) -> Iterator[None]:
    """Says how far the sweep is whenever a point is done, looking every so many seconds.

    It watches the folders, whoever works on them: this process, others, another machine.
    """
    stop, started = threading.Event(), time.monotonic()

    def watch() -> None:
        num_done = begun.num_done
        while not stop.wait(every):
            now = plan(begun.name, begun.points)
            if num_done < now.num_done < len(now.items):
                log.info("%s", now.progress(since=begun, elapsed=time.monotonic() - started))
            num_done = now.num_done

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- reading -------------------------------------------------------------------------------------


def _done(point: Point) -> dict[int, dict[str, Any]]:
    """t -> facts of the point's finished iterations.

    Nothing where its folder holds a run with another history: selfplay will refuse that.
    """
    there = stored(point.folder)
    if there is None:
        return {}
    found = {
        t: _facts(point.folder.iteration(t))
        for t in point.folder.iterations()
        if t in point.iterations and there.histories[t : t + 1] == [point.histories[t]]
    }
    return {t: facts for t, facts in found.items() if facts is not None}


def _facts(out: Iteration) -> dict[str, Any] | None:
    """done.json of a finished iteration; its benchmarks' time is among the seconds.

    None where it cannot be read, or is no longer there: who looks on holds no lock.
    """
    try:
        facts: dict[str, Any] = read_json(out.done)
        if out.evaluation.exists() and "benchmarks" in (found := read_json(out.evaluation)):
            facts["seconds"]["benchmarks"] = sum(
                task["seconds"] for task in found["benchmarks"].values()
            )
        sum(facts["seconds"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return facts


def _others(points: Sequence[Point]) -> Iterator[Point]:
    """The other runs in the same places."""
    names = {point.run.folder for point in points}
    for place in dict.fromkeys(point.run.folder.parent for point in points):
        for folder in run_dirs(place):
            if folder.path not in names:
                found = stored(folder)
                if found is not None:
                    yield found


def stored(folder: RunDir) -> Point | None:
    """The run in a folder, as its config.yaml says; None without one, for one of an older version,
    or of another name.
    """
    try:
        found = _stored(folder.config, folder.config.stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    return found if found is not None and found.run.name == folder.path.name else None


@cache
def _stored(file: Path, mtime: int) -> Point | None:
    """mtime: the state of the file, in ns"""
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
        # The folder may have moved since.
        return Point((), config.load(tree | {"runs_dir": str(file.parent.parent)}))
    except (ValueError, TypeError, yaml.YAMLError, RecursionError):
        return None


def _lacks_benchmarks(point: Point) -> bool:
    run, folder = point.run, point.folder
    try:
        return any(
            benchmark.due(out, run)
            for out in (folder.base, *map(folder.iteration, point.iterations))
        )
    except ImportError:  # no lm-eval: selfplay says what to install
        return True


def _worth(out: Iteration) -> dict[str, float]:
    """The average of the benchmarks and the held-out accuracy, as far as they are there."""
    if not out.evaluation.exists():
        return {}
    facts = read_json(out.evaluation)
    found = {
        "average": facts.get("average", {}).get("value"),
        "accuracy": facts.get("heldout", {}).get("exact_match,greedy", {}).get("value"),
    }
    return {name: value for name, value in found.items() if value is not None}


# --- saying --------------------------------------------------------------------------------------


def _state(item: Item) -> str:
    if item.complete:
        return "done"
    some = any(step.done for step in item.steps) or item.point.folder.provenance.exists()
    return "begun" if some else "to do"


def _progress(item: Item) -> str:
    return f"{sum(step.done for step in item.steps)} of {len(item.steps)}"


def _count(num: int, what: str) -> str:
    return f"{num} {what}" + ("" if num == 1 else "s")


def _about(seconds: float | None, unknown: str, behind: str = "") -> str:
    return unknown if seconds is None else f"about {duration(seconds)} {behind}".rstrip()


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"
