"""What a sweep is about to do, and what came of it: read from the folders of its runs.

No counters and no torch: a point is done when its files are there, so a sweep that was killed goes
on, and one that is complete says so at once. Which iterations are equal by definition
`config.identity.history` decides; selfplay links them, here they are counted.
"""

from __future__ import annotations

import logging
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspin.cli.arguments import key
from tspin.config.identity import IDENTITY_FREE
from tspin.config.load import dump
from tspin.runs import benchmarks, comparison, evaluation
from tspin.runs.artifacts import Iteration
from tspin.runs.point import Kind, Point, facts_of, others
from tspin.tools.files import is_owned, read_json
from tspin.tools.run_progress import repeating
from tspin.tools.terminal import LOG_SECONDS, duration, table

log = logging.getLogger("tspin")
ITERATIONS = "selfplay.iterations"  # in the tables anyway: "1 of 2"
# sweep -> what `python -m analysis` shows it as; the others are called as their figure is
FIGURE = re.compile(r"(figure|table)\d")
FIGURES = {"alpha_beta": "figure4c", "tune": "tuning", "paper": "all", "miniature": "all",
           "rivals": "table1"}  # fmt: skip
COLUMNS = ("point", "run", "state", "iterations", "shared", "average", "accuracy", "perplexity",
           "minutes", "why")  # fmt: skip


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
    """The points of a sweep and what is done of them, as it was read from the folders.

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
        seconds, time = self.seconds(self.to_train), "time unknown until an iteration is done"
        if seconds is not None:
            time = f"about {duration(seconds)}"
        return (
            f"{self.name}: {_count(num, 'point')}, {done} done, {num - done} to run; "
            f"{_count(len(self.steps), 'iteration')}, {shared} of them shared, "
            f"{len(self.to_train)} to train; {time}"
        )

    def table(self) -> str:
        """One row per point: what it differs by, how far it is, what it shares with whom."""
        numbers = {item.name: item.number for item in self.items}
        rows = []
        for item, row in zip(self.items, self._differences(), strict=True):
            shared = [s for s in item.steps if s.source is not None]
            sources = [f"{s.t} from {numbers.get(s.source or '', s.source)}" for s in shared]
            row["state"] = _state(item)
            row["iterations"] = f"{sum(step.done for step in item.steps)} of {len(item.steps)}"
            rows.append(row | {"shared": ", ".join(sources) or None})
        return table("Points", rows, first=("point",))

    def summary(self, failed: Mapping[str, str]) -> str:
        """The end of a sweep: its table, what sharing saved, the best point, the command for its
        figure. failed: name of a run -> why, in one line
        """
        rows = []
        for item, row in zip(self.items, self._differences(), strict=True):
            own = [step.seconds for step in item.steps if step.source is None]
            row["state"] = "failed" if item.name in failed else _state(item)
            row |= _worth(item.point.last)
            row["minutes"] = round(sum(filter(None, own)) / 60, 2)
            rows.append(row | {"why": failed.get(item.name)})
        parts = [table(self.name, rows, first=("point",)), self.saving(), self.best()]
        return "\n\n".join([*filter(None, parts), f"its figure: {self.figure_command()}"])

    def best(self) -> str | None:
        """The point with the best main held-out number, in a line; None where points cannot be
        compared by one."""
        worths = [(comparison.worth(item.point.last), item) for item in self.items]
        known = [(worth, item) for worth, item in worths if worth is not None]
        if len(known) < 2 or len({worth.metric for worth, _ in known}) > 1:
            return None
        sign = 1 if evaluation.MAIN[known[0][0].metric] else -1
        worth, item = max(known, key=lambda pair: sign * pair[0].value)
        row = next(row for row in self._differences() if row["point"] == item.number)
        words = ", ".join(f"{key}={value}" for key, value in row.items() if key != "point")
        return (
            f"best of {len(known)}: point {item.number} ({words}), held-out {worth.name} {worth}; "
            "95% intervals over prompts"
        )

    def figure_command(self) -> str:
        figure = FIGURES.get(self.name, self.name if FIGURE.match(self.name) else "comparison")
        folder = shlex.quote(str(self.points[0].run.folder.parent))
        return f"python -m analysis {figure} runs={folder} out=report"

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

    def _differences(self) -> list[dict[str, Any]]:
        """Rows: number and overrides in which the points differ; of a single point its name."""
        if len(self.items) == 1:
            return [{"point": 1, "run": self.items[0].name}]
        points = [{key(w): w.split("=", 1)[1] for w in item.point.words} for item in self.items]
        keys = {k: k.rsplit(".", 1)[-1] for values in points for k in values if k != ITERATIONS}
        keys = {k: word for k, word in keys.items() if len({p.get(k) for p in points}) > 1}
        last = Counter(keys.values())
        short = {k: w if last[w] == 1 and w not in COLUMNS else k for k, w in keys.items()}
        return [
            {"point": number, **{short[k]: values[k] for k in keys if k in values}}
            for number, values in enumerate(points, 1)
        ]


def plan(name: str, points: Sequence[Point]) -> Plan:
    """Reads the folders. name: what the sweep is called."""
    done = {point.run.name: facts_of(point) for point in points}
    todo = any(len(done[point.run.name]) < len(point.iterations) for point in points)
    known = [(point, done[point.run.name]) for point in points]
    known += [(other, facts_of(other)) for other in others(points)] if todo else []
    owners: dict[tuple[Path, str], str] = {}  # iteration -> the run that has it, or will
    timed: dict[Kind, list[float]] = {}
    costs = {kind[0] for point in points for kind in point.kinds}
    for point, finished in known:
        for t, facts in finished.items():
            if not point.folder.iteration(t).removed.exists():  # else selfplay trains it, mostly
                owners.setdefault((point.run.folder.parent, point.histories[t]), point.run.name)
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
            source = owners.setdefault(iteration, point.run.name)
            if source == point.run.name or not point.run.selfplay.share:
                source = None
            elif source in done and t not in done[source]:
                leaders.add(source)
            steps.append(Step(t, point.kinds[t], source, None))
        complete = all(step.done for step in steps) and not _lacks_benchmarks(point)
        items.append(Item(number, point, tuple(steps), complete))
    return Plan(name, tuple(items), frozenset(leaders), timed)


class Watch:
    """Points that run in other processes: a line about them where it says something new."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points, self._line = points, ""

    def look(self) -> None:
        done = sum(point.last.done.exists() for point in self._points)
        running = [point.run.name for point in self._points if is_owned(point.folder.path)]
        line = f"{done} of {_count(len(self._points), 'point')} done, {len(running)} running"
        line = ": ".join(filter(None, [line, ", ".join(running)]))
        if line != self._line:
            self._line = line
            log.info("%s", line)


@contextmanager
def watched(points: Sequence[Point]) -> Iterator[None]:
    """Inside, a line about the points every LOG_SECONDS, where it says something new."""
    with repeating(Watch(points).look, every=LOG_SECONDS):
        yield


def announce(points: Sequence[Point]) -> None:
    """Claims the folders of points that share, but keep not all of their checkpoints.

    An unfinished run is who an iteration is kept for that several begin with (runs.retention).
    """
    for point in points:
        if point.run.selfplay.share and point.run.selfplay.keep != "all":
            with suppress(ValueError):  # another configuration there: the point itself will say so
                point.folder.claim(dump(point.run), free=IDENTITY_FREE)


# --- reading -------------------------------------------------------------------------------------


def _lacks_benchmarks(point: Point) -> bool:
    run, folder = point.run, point.folder
    try:
        return any(
            benchmarks.due(out, run)
            for out in (folder.base, *map(folder.iteration, point.iterations))
        )
    except ImportError:  # no lm-eval: selfplay says what to install
        return True


def _worth(out: Iteration) -> dict[str, Any]:
    """The average of the benchmarks and the main held-out number, as far as they are there."""
    if not out.evaluation.exists():
        return {}
    worth = comparison.worth(out)
    average = read_json(out.evaluation).get("average", {}).get("value")
    return {"average": average} | ({} if worth is None else {worth.name: str(worth)})


# --- saying --------------------------------------------------------------------------------------


def _state(item: Item) -> str:
    if item.complete:
        return "done"
    some = any(step.done for step in item.steps) or item.point.folder.provenance.exists()
    return "begun" if some else "to do"


def _count(num: int, what: str) -> str:
    return f"{num} {what}" + ("" if num == 1 else "s")
