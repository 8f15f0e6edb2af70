"""An iteration that another run has made already: equal by definition, linked instead of played."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tspin.runs import sharing
from tspin.runs.artifacts import Iteration, sharing_lock
from tspin.selfplay.session import Session
from tspin.tools.files import link, read_json, write_json
from tspin.tracking import replay

log = logging.getLogger("tspin")


def linked_or(play: Callable[[Session, int], None], session: Session, t: int) -> bool:
    """Iteration t: linked where another run of runs_dir has made the same one, else played.

    Runs that would play the same iteration at the same time wait for the first of them.
    -> whether it was played
    """
    cfg, world = session.cfg, session.world
    if not cfg.selfplay.share:
        play(session, t)
        return True
    lock = sharing_lock(cfg.runs_dir, session.iteration_key(t))
    with world.held(lock, wait=True, what=f"iteration {t}"):
        twin = world.main(sharing.find, cfg, t, session.iteration_key)
        if twin is None:
            play(session, t)
        else:
            world.main(_link, session, t, twin)
        return twin is None


def _link(session: Session, t: int, twin: Iteration) -> None:
    """Iteration t of another run as this one's, shown as if it had been played here."""
    folder, out = session.folder, session.folder.iteration(t)
    twin.check()
    done, source = read_json(twin.done), sharing.origin(twin)
    seconds = sum(done["seconds"].values())
    log.info("iteration %d: equal to %s by definition, linked (%.0f s saved)", t, source, seconds)
    link(twin.path, out.path, leave=(out.done.name,))  # that is written last
    replay.steps(folder, t, session.tracker)
    replay.iteration(folder, t, session.tracker)
    write_json(out.done, {"from": source, **done})
