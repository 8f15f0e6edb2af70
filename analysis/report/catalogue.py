"""Every table and figure by name, and all of them built. One that fails is a problem of its own;
the rest is built."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from analysis.figures import (
    anchors,
    answers,
    comparison,
    curriculum,
    drift,
    dynamics,
    grids,
    objectives,
    responses,
    results,
    rivals,
    style,
    tasks,
    tuning,
)
from analysis.figures.pieces import Piece
from analysis.reading.runs import Runs

log = logging.getLogger("tspin")

_MODULES: tuple[Any, ...] = (
    results, tasks, responses, dynamics, grids, objectives, comparison, rivals, anchors,
    curriculum, tuning, drift, answers,
)  # fmt: skip
HOMES: dict[str, Callable[..., list[Piece]]] = {
    name: module.build for module in _MODULES for name in module.NAMES
}
OF_PAPER = ("table1", "figure2", "table2", "figure5", "table3", "table4", "figure6", "table5",
            "figure3", "figure4a", "figure4b", "figure4c", "figure7")  # fmt: skip
NAMES = (*OF_PAPER, "objectives", "comparison",
         "contingency", "answers", "rivals", "stress", "anchors", "curriculum", "tuning",
         "drift")  # fmt: skip
assert sorted(NAMES) == sorted(HOMES)


def build(
    runs: Runs, names: Sequence[str] = NAMES, *, with_paper: bool = False, **options: Any
) -> list[Piece]:
    """The pieces of the names given; options go to the one module that has them.

    with_paper  the paper's own numbers beside ours, where it has some
    A piece that cannot be built becomes a line of runs.problems.
    """
    built: list[Piece] = []
    with style.applied():
        for name in tqdm(names, "tables and figures", disable=None, leave=False):
            paper = {"with_paper": with_paper} if "with_paper" in parameters(name) else {}
            try:
                built += HOMES[name](runs, name, **paper, **options)
            except Exception as error:  # one figure's trouble must not cost the others
                log.debug("%s", name, exc_info=True)
                runs.problems.append(f"{name}: could not be made ({type(error).__name__}: {error})")
    return built


def parameters(name: str) -> set[str]:
    """The options of a table or figure."""
    return {*inspect.signature(HOMES[name]).parameters}
