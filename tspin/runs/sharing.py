"""Iterations that are equal by definition are made once in a runs_dir, and linked by other runs.

Equal are those whose whole history is: initial weights, pairs, sampling, and in every iteration so
far the objective in its plainest form with its coefficients, the learning rate and all the rest of
the configuration. The links are of files, so that every run folder stands alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tspin.config.identity import history
from tspin.config.run import Run
from tspin.runs import benchmarks
from tspin.runs.artifacts import Iteration, RunDir, run_dirs
from tspin.runs.start import start_from
from tspin.tools.files import digest, read_json

log = logging.getLogger("tspin")


def iteration_key(cfg: Run, folder: RunDir, t: int, sampling: dict[str, Any]) -> str:
    """What decides everything that iterations 0..t leave, as a digest.

    sampling  how and where responses are drawn
    """
    beginning = [read_json(folder.initial), read_json(folder.data)]
    if cfg.selfplay.start_from is not None:
        beginning.append(read_json(start_from(cfg).done)["weights"])
    return digest([beginning, sampling, history(cfg, t)])


def find(cfg: Run, t: int, key_of: Callable[[int], str]) -> Iteration | None:
    """A finished iteration t with the key that it has here, in any run of runs_dir.

    One whose weights were removed (keep) will do where nothing here asks for them: the run does
    not keep all of its own, the benchmarks are made, and the next iteration is found too.
    """
    key, gone = key_of(t), None
    for folder in run_dirs(Path(cfg.runs_dir).expanduser()):
        out = folder.iteration(t)
        if out.done.exists() and read_json(out.done).get("key") == key:
            if not out.removed.exists():
                return out
            gone = out
    if gone is None:
        return None
    unread = cfg.selfplay.keep != "all" and t + 1 < cfg.selfplay.iterations
    if unread and not benchmarks.missing(gone, cfg) and find(cfg, t + 1, key_of) is not None:
        return gone
    log.info("iteration %d: equal to %s, whose weights were removed (keep)", t, origin(gone))
    return None


def origin(out: Iteration) -> str:
    """RUN/iter_t of where it was trained."""
    here = f"{out.path.parent.name}/{out.path.name}"
    return str(read_json(out.done).get("from", here))
