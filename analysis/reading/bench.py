"""The bench of objectives: which runs of a setting answer which question.

Under stress are runs at the one learning rate that objectives share, tuned are those at the rate
that an objective has beside it. Both with an anchor of log pi(y), or without; another variant of an
objective (alpha, pairs) is in neither.
"""

from __future__ import annotations

from collections import Counter
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
    """At the learning rate of an objective's own: its main variant's, or where that is the one for
    all (of two names one does not tell) the other."""
    rate, rates = stress(runs), _rates(runs)
    own = {}
    for run in runs:
        if run.is_main:
            others = rates.get(run.loss, set()) - {rate}
            lr = run.values.get(LR)
            own[run.loss] = min(others) if lr == rate and others else lr
    return runs.where(
        lambda run: run.differs_only_in(LR, *ANCHORS) and run.values.get(LR) == own.get(run.loss)
    )


def stressed(runs: Runs) -> Runs:
    """At the one learning rate for all; none where there is no such rate."""
    rate = stress(runs)
    return runs.where(
        lambda run: (
            rate is not None and run.values.get(LR) == rate and run.differs_only_in(LR, *ANCHORS)
        )
    )


def stress(runs: Runs) -> float | None:
    """The learning rate at which most objectives were run, of several the largest, where two of
    them have another one, too. None on validation prompts, where rates are there to choose from."""
    rates = _rates(runs)
    numbers = Counter(rate for of_loss in rates.values() for rate in of_loss)
    shared = [
        (number, rate)
        for rate, number in numbers.items()
        if sum(rate in of_loss and len(of_loss) > 1 for of_loss in rates.values()) > 1
    ]
    return max(shared)[1] if shared else None


def _rates(runs: Runs) -> dict[str, set[float]]:
    """Objective -> the learning rates at which it was run on test prompts, without an anchor."""
    rates: dict[str, set[float]] = {}
    for run in runs:
        rate = run.values.get(LR)
        of_bench = run.setting.split == "test" and run.differs_only_in(LR) and not kind(run)
        if of_bench and isinstance(rate, float):
            rates.setdefault(run.loss, set()).add(rate)
    return rates


def plain(runs: Runs) -> Runs:
    """Those without an anchor."""
    return runs.where(lambda run: not kind(run))


def of(runs: Runs, loss: str, with_anchor: str = "") -> list[Run]:
    """The seeds of an objective with this anchor (`anchor`); "": without one."""
    return [run for run in runs if run.loss == loss and anchor(run) == with_anchor]
