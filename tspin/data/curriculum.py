"""Which training prompts of an iteration get a new y' and a step; the others keep their latest y'.

The laws of the choice alone: what rows are chosen by, stages.choose computes. A choice is a
function of the rows and a seed, whatever order they come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tspin.config.run import CurriculumConfig
from tspin.tools.seeds import seed_for

LOTS = 2**63  # that seed_for draws from


@dataclass(frozen=True, slots=True)
class Row:
    """A training prompt before iteration t.

    value  what it is chosen by: the share of its gradient that is left (gate, skip), the mean log
           pi_t of a token of y (band), nothing (random); None where that is not known
    idle   iterations in a row that it was trained in and left without signal
    keeps  whether it has a y' to keep
    """

    id: str
    value: float | None = None
    idle: int = 0
    keeps: bool = True


def chosen(
    rows: Sequence[Row], how: CurriculumConfig, *, seed: int, t: int, at_least: int
) -> set[str]:
    """The ids of the rows that get a new y' and a step at iteration t.

    With a share, that many. Without one, as many as have a signal (gate) or are drawn
    (skip), and never fewer than at_least: the rows with the largest values fill them up. A row
    without a y', or without the value that its choice needs, is always among them.
    """
    valued = how.prompts != "random"
    new = {row.id for row in rows if not row.keeps or (valued and row.value is None)}
    lots = {row.id: seed_for(seed, "curriculum", t, row.id) for row in rows}
    known = sorted((row for row in rows if row.id not in new), key=lambda row: lots[row.id])
    if valued:  # ties by lot
        known.sort(key=lambda row: -(row.value or 0.0))
    if (in_all := how.num_chosen(len(rows))) is not None:
        number = max(0, in_all - len(new))
        first = (len(known) - number) // 2 if how.drop == "tails" else 0
        return new | {row.id for row in known[first : first + number]}
    drawn = new | {row.id for row in known if _has_signal(row, lots[row.id], how)}
    others = [row.id for row in known if row.id not in drawn]
    return drawn | {*others[: max(0, at_least - len(drawn))]}


def chance(idle: int, how: CurriculumConfig) -> float:
    """Of a row that was left without signal so often: max(floor, explore^idle).

    GRESO (arXiv 2506.02177) skips with 1 - p^z; the floor is ours.
    """
    assert how.explore is not None and how.floor is not None
    return max(how.floor, how.explore**idle)


def idle_now(value: float | None, before: int, *, trained: bool, least: float) -> int:
    """`idle` of a row once its value is known.

    before   what it was an iteration earlier
    trained  whether it got a step since; without one, no signal is no news
    """
    return 0 if value is None or value >= least else before + trained


def _has_signal(row: Row, lot: int, how: CurriculumConfig) -> bool:
    if how.prompts == "skip":
        return lot < LOTS * chance(row.idle, how)
    assert row.value is not None and how.least is not None
    return row.value >= how.least
