"""Annotated rows that have a time: the parts they come in, and which are there at iteration t.

data.shift (config.shift) says how; a row of prompts.parquet then holds its `part`. Held-out rows
are there always: a policy is judged on the time it is in, on those before and on those to come.
"""

from __future__ import annotations

import difflib
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timezone
from heapq import nsmallest
from typing import Any, TypeVar

from tspin.config.shift import ShiftConfig, Span
from tspin.data.cells import BadRow, printable
from tspin.tools.seeds import seed_for

Row = Mapping[str, Any]  # of prompts.parquet: id, split and part among others
R = TypeVar("R", bound=Row)
FORMS = "a number, or a date or time as ISO 8601 writes it (2026-03-31, 2026-03-31T12:00:00)"


def time_of(row: object, column: str) -> tuple[str, float]:
    """(kind, time) of a row as its source has it; only times of one kind have an order.

    A date or time without a zone is UTC. BadRow where the column is missing or holds neither.
    """
    if not isinstance(row, Mapping) or row.get(column) is None:
        names = [str(name) for name in row] if isinstance(row, Mapping) else []
        near = difflib.get_close_matches(column, names, n=1)
        hint = f"; did you mean {printable(near[0])}?" if near else ""
        raise BadRow(f"it has no {column}, which data.shift.column names{hint}")
    value = row[column]
    try:
        if isinstance(value, date):  # a datetime is one, too
            return "a date", _seconds(value)
        if isinstance(value, str) and not _is_number(value):
            whole = f"{value.strip()}-01" if value.strip().count("-") == 1 else value.strip()
            return "a date", _seconds(datetime.fromisoformat(whole.replace("Z", "+00:00")))
        if not isinstance(value, bool) and math.isfinite(number := float(value)):
            return "a number", number
    except (TypeError, ValueError, OverflowError):
        pass
    text = printable(value)
    raise BadRow(f"{column} is {text!r}, which has no place in time; write {FORMS}")


def parts_of(times: Sequence[float], number: int | None) -> list[int]:
    """The part that each row is in, 0 for the oldest; equal times are in one part.

    number  parts of equal size, as far as equal times allow; None: one for each time
    """
    if number is None:
        places = {time: place for place, time in enumerate(sorted(set(times)))}
        return [places[time] for time in times]
    ordered = sorted(times)
    return [bisect_left(ordered, time) * number // len(times) for time in times]


def check(parts: Iterable[int], shift: ShiftConfig, iterations: int) -> None:
    """ValueError unless the rows to train on, whose parts these are, last for the iterations.

    Every iteration finds rows of its own part.
    """
    there = set(parts)
    lacking = [part for part in range(iterations) if part not in there]
    if not lacking:
        return
    if shift.parts is None and len(lacking) == iterations - len(there):
        raise ValueError(
            f"selfplay.iterations={iterations} are more than the {len(there)} times of "
            f"data.shift.column={shift.column}; use at most {len(there)}"
        )
    listed = ", ".join(map(str, lacking))
    cure = "a larger data.size" if shift.parts is None else "fewer data.shift.parts"
    raise ValueError(
        f"data.shift: no row to train on in part {listed} of those that iterations 0 to "
        f"{iterations - 1} begin with; use {cure} or a smaller data.heldout"
    )


def present(rows: Sequence[R], span: Span | None, seed: int) -> Sequence[R]:
    """The rows that an iteration is played with, in their order.

    Of the parts before the span as many are drawn as make its share, anew in every iteration: the
    draw is a function of the seed, the iteration and the rows alone. Without a span all are there.
    """
    if span is None:
        return rows
    train = [row for row in rows if row["split"] == "train"]
    whole = {row["id"] for row in train if span.first <= row["part"] <= span.last}
    older = (row["id"] for row in train if row["part"] < span.first)
    wanted = round(len(whole) * span.replay / (1 - span.replay))
    drawn = nsmallest(wanted, older, key=lambda name: seed_for(seed, "replay", span.last, name))
    there = whole | {*drawn}
    return [row for row in rows if row["split"] != "train" or row["id"] in there]


def weights(rows: Iterable[Row], span: Span) -> dict[str, float] | None:
    """Prompt id -> weight in the mean loss of the training rows; None where all count alike.

    gamma^(T - t_i - 1) with T = t + 1 parts (NS-DPO, arXiv 2407.18676), over its mean: weights are
    1 on average over the rows of the iteration, whatever a batch holds of them, so that a learning
    rate means what it means without them.
    """
    if span.gamma == 1:
        return None
    aged = {r["id"]: span.gamma ** (span.last - r["part"]) for r in rows if r["split"] == "train"}
    mean = math.fsum(aged.values()) / len(aged)
    return {name: value / mean for name, value in aged.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(moment: date) -> float:
    """Since 1970."""
    whole = moment if isinstance(moment, datetime) else datetime(*moment.timetuple()[:3])
    return (whole if whole.tzinfo else whole.replace(tzinfo=timezone.utc)).timestamp()
