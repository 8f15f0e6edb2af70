"""The interface between a run and what shows it: what a run says, and what a tracker has to do.

A run speaks to a View (Tracker, or a replay's notes). A tracker of some library is a Backend: five
methods, and values that are numbers, histograms, tables or pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

NUM_BINS = 64

# The axis of each group of keys, GROUP/KEY.
STEP, ITERATION, EVALUATION = "train/step", "iteration", "eval/iterations"
AXES = {
    STEP: ("train",),
    ITERATION: ("iteration", "contingency", "samples"),
    EVALUATION: ("eval",),
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a tracker is told of a run, so that a list of many runs is readable.

    group     what runs that differ by seed alone have in common
    job_type  the objective, as the tables print it
    config    dotted key -> value
    """

    project: str
    entity: str | None
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class Histogram:
    """counts (n,) of values between edges (n + 1,)"""

    counts: np.ndarray
    edges: np.ndarray

    @staticmethod
    def of(values: Iterable[float]) -> Histogram:
        """NUM_BINS of one width from the smallest value to the largest."""
        return Histogram(*np.histogram(np.fromiter(values, dtype=float), bins=NUM_BINS))


@dataclass(frozen=True)
class Rows:
    """A table: rows of column -> value."""

    rows: Sequence[Mapping[str, Any]]

    @property
    def columns(self) -> list[str]:
        return [*dict.fromkeys(key for row in self.rows for key in row)]

    @property
    def cells(self) -> list[list[Any]]:
        return [[row.get(key) for key in self.columns] for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """pixels (height, width, 4) uint8"""

    pixels: np.ndarray


Value = float | str | Histogram | Rows | Picture


@dataclass(frozen=True)
class Told:
    """What earlier launches have told a run of a library.

    steps   key -> the last step of its axis
    alerts  their kinds
    """

    steps: Mapping[str, int] = field(default_factory=dict)
    alerts: frozenset[str] = frozenset()


class Backend(Protocol):
    """One run in one library. Any method may raise: Tracker turns that into a warning."""

    label: str  # what people call it

    def start(self) -> str:
        """Begins the run, or goes on with it. -> where it is to be seen, in words"""

    def told(self) -> Told:
        """What the run has already; asked for once, when it has begun."""

    def log(self, axis: str, step: int, values: Mapping[str, Value]) -> None:
        """Values by GROUP/KEY, at a step of their axis (AXES)."""

    def alert(self, kind: str, text: str) -> None:
        """What is wrong with the run, in plain words."""

    def finish(self, exit_code: int) -> None:
        """Ends the run, failed unless the code is 0, or what was begun of it."""


class View(Protocol):
    """What a run's numbers are told to; the same numbers in the same order, live or replayed."""

    def log_step(self, row: Mapping[str, Any]) -> None: ...
    def log_iteration(self, t: int, scalars: Mapping[str, Any]) -> None: ...
    def log_contingency(self, t: int, split: str, counts: Mapping[str, int]) -> None: ...
    def log_histograms(self, t: int, values: Mapping[str, Sequence[float]]) -> None: ...
    def log_samples(self, t: int, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def log_evaluation(self, num_iterations: int, scalars: Mapping[str, Any]) -> None: ...
    def alert(self, kind: str, text: str) -> None: ...
