"""selfplay.keep: which checkpoints stay once their iteration is done. No torch.

The last one always stays: the next iteration begins there, and it is what a run is made for. An
earlier one goes where the rule does not name it and nothing needs it any more: benchmarks that are
still to be made, a run that begins from it (selfplay.start_from), an unfinished run of runs_dir
that has the very iteration ahead and would link it. Other runs' hard links are their own: what is
removed here stays there. Metrics, scores, samples, answers stay whatever the rule.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from tspin.config.run import Run
from tspin.planning.disk import amount, bytes_in
from tspin.runs import benchmarks, evaluation
from tspin.runs.artifacts import Iteration, RunDir, run_dirs, sharing_lock
from tspin.runs.point import stored
from tspin.tools.files import owner, read_json, remove, write_json
from tspin.tools.log import once

log = logging.getLogger("tspin")


def prune(cfg: Run, folder: RunDir) -> list[int]:
    """Removes what cfg.selfplay.keep does not keep. -> the iterations whose weights went

    A note is written first (Iteration.removed), so that a kill leaves no half a checkpoint that
    passes for a whole one.
    """
    done = [folder.iteration(t) for t in folder.iterations()]
    for out in done:
        if out.removed.exists():  # a kill came between the note and the end
            remove(out.checkpoint)
    rule = cfg.selfplay.keep
    if rule == "all" or len(done) < 2:
        return []
    spared = best(done) if rule == "best" else None
    removed = []
    for out in done[:-1]:
        if out.removed.exists() or (spared is not None and out.t == spared[0]):
            continue
        if rule == "evaluated" and any(out.benchmarks.glob("*.json")):
            continue
        if benchmarks.missing(out, cfg):
            continue
        reader = next(_readers(cfg, folder, out), None)
        if reader is not None:
            once(f"iteration {out.t}: weights are kept, {reader} needs them")
            continue
        why: dict[str, object] = {"keep": rule}
        if spared is not None:
            why |= {"best": spared[0], "by": spared[1], "value": spared[2]}
        if _remove(cfg, out, why):
            removed.append(out.t)
    return removed


def best(done: list[Iteration]) -> tuple[int, str, float] | None:
    """The iteration with the best main held-out number (evaluation.MAIN), that, and its value.

    The earliest of equals; None where no prompts are held out.
    """
    numbers = [(out.t, *number) for out in done if (number := evaluation.main_number(out))]
    return max(
        numbers, key=lambda x: (x[2] if evaluation.MAIN[x[1]] else -x[2], -x[0]), default=None
    )


def removable(cfg: Run, folder: RunDir) -> int:
    """Bytes of checkpoints that selfplay.keep=last would remove."""
    done = [folder.iteration(t) for t in folder.iterations()]
    return sum(
        bytes_in(out.checkpoint)
        for out in done[:-1]
        if out.checkpoint.exists() and not benchmarks.missing(out, cfg)
    )


def _readers(cfg: Run, folder: RunDir, out: Iteration) -> Iterator[str]:
    """The runs of runs_dir that are to load these weights still."""
    mine = stored(folder)
    for other in run_dirs(Path(cfg.runs_dir).expanduser()):
        if other.path.resolve() == folder.path.resolve():
            continue
        point = stored(other)
        if point is None:
            continue
        begins, t = point.run.selfplay.start_from, out.t
        if begins is not None and Path(begins).expanduser().resolve() == out.path.resolve():
            reads = not other.iteration(t + 1).done.exists()
        else:  # whether it will link the iteration
            reads = (
                mine is not None
                and point.run.selfplay.share
                and t in point.iterations
                and not other.iteration(t).done.exists()
                and point.histories[t] == mine.histories[t]
            )
        if reads:
            yield f"run {other.path.name}, which is not complete,"


def _remove(cfg: Run, out: Iteration, why: dict[str, object]) -> bool:
    """-> whether it was; another process may be linking it just now"""
    size = bytes_in(out.checkpoint)
    try:
        with owner(sharing_lock(cfg.runs_dir, read_json(out.done)["key"])):
            write_json(out.removed, {**why, "bytes": size})
            remove(out.checkpoint)
    except ValueError:
        return False
    log.info(
        "iteration %d: weights removed by selfplay.keep=%s, %s", out.t, why["keep"], amount(size)
    )
    return True
