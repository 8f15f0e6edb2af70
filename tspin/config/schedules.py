"""A number that may change from iteration to iteration."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")
Schedule = float | list[float]  # one value, or one per iteration; the last repeats


def at(schedule: T | list[T], t: int) -> T:
    """The value for iteration t; beyond the end of a list its last value repeats."""
    return schedule[min(t, len(schedule) - 1)] if isinstance(schedule, list) else schedule


def values(schedule: T | list[T]) -> list[T]:
    """All values that it takes; none of an empty list."""
    return schedule if isinstance(schedule, list) else [schedule]
