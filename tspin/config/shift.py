"""data.shift: annotated rows that have a time, and which of them an iteration trains on.

The data come in parts 0, 1, ...; at iteration t those up to t are there. No rows here: what they
are cut by and drawn from is in data/shift.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from tspin.config.strict import STRICT

WAYS: dict[str, Any] = {"window": None, "replay": 0.0, "gamma": 1.0, "renew": []}
"""What of it says how the past counts, each at the value where it does so like any other row."""


@dataclass(frozen=True)
class Span:
    """The training rows of one iteration.

    first   parts first..last are there whole
    last    the iteration
    replay  share of the iteration's rows that are drawn from the parts before `first`
    gamma   a row of part i counts gamma^(last - i) times
    """

    first: int
    last: int
    replay: float
    gamma: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShiftConfig:
    """Rows without a time where neither `column` nor `parts` is set: then all are always there."""

    column: str | None = Field(min_length=1)  # that holds the time; None: the order of the rows
    parts: int | None = Field(ge=2)  # of equal size; None: one for each time in the column
    window: int | None = Field(ge=1)  # parts that are trained on, the newest; None: all there are
    replay: float = Field(ge=0, lt=1)  # share of rows from before the window
    gamma: float = Field(gt=0, le=1)  # weight of a row, to the power of its age in parts
    renew: list[Annotated[int, Field(ge=1)]]  # iterations at which y0 is sampled anew

    @property
    def timed(self) -> bool:
        """Whether rows have a time."""
        return self.column is not None or self.parts is not None

    def at(self, t: int) -> Span | None:
        """What iteration t trains on, in its plainest form; None: all rows, whatever their time.

        What makes no difference yet is left out, so that runs which differ by it alone share the
        iteration: a window that reaches back to part 0, a weight while there is one part.
        """
        if not self.timed:
            return None
        first = 0 if self.window is None else max(0, t + 1 - self.window)
        replay = self.replay if first else 0.0
        return Span(first, t, replay, self.gamma if first < t or replay else 1.0)

    def proto(self, t: int) -> int:
        """The iteration at whose start the y0 of iteration t were sampled: 0, or the last of
        `renew` up to t."""
        return max((k for k in self.renew if k <= t), default=0)

    def history(self, t: int) -> dict[str, Any]:
        """What of it decides iteration t; nothing where rows have no time."""
        span = self.at(t)
        if span is None:
            return {}
        time = {"column": self.column, "parts": self.parts, "proto": self.proto(t)}
        return {"data.shift": time | asdict(span)}
