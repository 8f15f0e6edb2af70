"""Where a run begins: at iteration 0, or behind an iteration of another run. No torch."""

from __future__ import annotations

from pathlib import Path

from tspin.config.run import Run
from tspin.runs.artifacts import Iteration


def first_iteration(cfg: Run) -> int:
    """The iteration a run begins with: 0, or the one after selfplay.start_from."""
    if cfg.selfplay.start_from is None:
        return 0
    first = start_from(cfg).t + 1
    if first >= cfg.selfplay.iterations:
        raise ValueError(
            f"selfplay.iterations={cfg.selfplay.iterations} leaves nothing to do after "
            f"selfplay.start_from={cfg.selfplay.start_from}; it counts from 0, use {first + 1}"
        )
    return first


def start_from(cfg: Run) -> Iteration:
    """The iteration of another run that this one goes on from."""
    assert cfg.selfplay.start_from is not None
    out = Iteration(Path(cfg.selfplay.start_from).expanduser())
    if not out.done.exists():
        raise ValueError(
            f"selfplay.start_from={cfg.selfplay.start_from} is no finished iteration of a run "
            "(RUN/iter_T with done.json); to begin with other weights use model.path=FOLDER"
        )
    return out
