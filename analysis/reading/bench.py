"""The bench of objectives: which runs of a setting answer which question.

Tuned are the runs at the learning rate of their objective's main variant; under stress are those at
the one rate that objectives share beside it. Both with an anchor of log pi(y), or without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

from analysis.reading.methods import Run
from analysis.reading.runs import Runs
from tspin.objectives.anchored import Anchors

LR = "optim.lr"
KINDS = tuple(field.name for field in fields(Anchors))
ANCHORS = tuple(f"anchor.{kind}" for kind in KINDS)


def kind(run: Run) -> str:
    """Which anchor it has: "hinge", "hinge cap" of two; "" for none."""
    return " ".join(name for name in KINDS if run.values.get(f"anchor.{name}"))


def anchor(run: Run) -> str:
    """The same with its strength: "hinge 1"; a switch has none."""
    strengths = {name: run.values.get(f"anchor.{name}") for name in KINDS}
    shown = {name: value for name, value in strengths.items() if value}
    return " ".join(name if value is True else f"{name} {value:g}" for name, value in shown.items())


def tuned(runs: Runs) -> Runs:
    """At the learning rate of the main variant of their objective."""
    return runs.where(lambda run: run.differs_only_in(*ANCHORS))


def stressed(runs: Runs) -> Runs:
    """At the one learning rate for all; none where there is no such rate."""
    rate = stress(runs)
    return runs.where(
        lambda run: (
            rate is not None and run.values.get(LR) == rate and run.differs_only_in(LR, *ANCHORS)
        )
    )


def stress(runs: Runs) -> float | None:
    """The learning rate at which most objectives were run beside their main one, two at least; of
    several the largest. None on validation prompts, where rates are there to choose from."""
    pairs = {
        (run.loss, run.values[LR])
        for run in runs
        if set(run.variant) == {LR} and run.setting.split == "test"
        and isinstance(run.values[LR], float)
    }  # fmt: skip
    numbers = Counter(rate for _, rate in pairs)
    shared = [(number, rate) for rate, number in numbers.items() if number > 1]
    return max(shared)[1] if shared else None


def plain(runs: Runs) -> Runs:
    """Those without an anchor."""
    return runs.where(lambda run: not kind(run))


def of(runs: Runs, loss: str, of_kind: str = "") -> list[Run]:
    """The seeds of an objective with this kind of anchor."""
    return [run for run in runs if run.loss == loss and kind(run) == of_kind]


def finished(members: Sequence[Run]) -> list[Run]:
    """Those that have done all their iterations."""
    return [run for run in members if run.iterations - 1 in run.folder.iterations()]
