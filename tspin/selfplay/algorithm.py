"""Algorithm 1 of arXiv 2601.08198: sample, score, train, score, evaluate, and again.

Stages talk through files only, and a stage whose file is there is not run again: that is all that
resuming is. The folder is the state; `play` and `play_iteration` read it from top to bottom.
Several processes run them side by side: the main one says what is there and writes, all of them
sample, score and train.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from tspin.config.load import dump
from tspin.config.run import Run
from tspin.data import annotated
from tspin.data.annotated import Dataset
from tspin.data.templates import Rendering
from tspin.distributed.failure import stopping_together
from tspin.distributed.world import World, join
from tspin.policy import determinism, dtypes, policy
from tspin.policy.rates import matmul_rate
from tspin.runs import comparison, heartbeat, mirror, provenance, retention, start
from tspin.runs.artifacts import Iteration, RunDir
from tspin.runs.start import first_iteration
from tspin.selfplay import banner, preflight
from tspin.selfplay.base_evaluation import base_evaluation
from tspin.selfplay.inputs import Inputs
from tspin.selfplay.iteration import IterationStages
from tspin.selfplay.overlap import Overlap, num_threads, overlapping
from tspin.selfplay.proto_synthetic import proto_synthetic
from tspin.selfplay.session import Session, policies_of
from tspin.selfplay.twin import linked_or
from tspin.stages.prepare import prepare
from tspin.tools.files import check_sums, read_json, remove
from tspin.tools.log import once
from tspin.tools.memory import give_back
from tspin.tools.run_progress import RunProgress, run_progress
from tspin.tools.threads import threads
from tspin.tracking import backends, replay, report, sessions
from tspin.tracking.tracker import Tracker

log = logging.getLogger("tspin")


def play(session: Session) -> None:
    """Algorithm 1: theta_1 .. theta_T from theta_0."""
    cfg, folder, world = session.cfg, session.folder, session.world
    first, total = first_iteration(cfg), cfg.selfplay.iterations

    def conclude(t: int, *, played: bool, fresh: bool = True) -> None:
        """Once iteration t is done. fresh: it was not before this launch"""
        out = folder.iteration(t)
        label = f"iteration {t}: benchmarks"
        if session.benchmark(out.checkpoint, out, label=label) or fresh:
            replay.evaluation(out, t + 1, session.tracker)
        progress.finish_iteration(played=played)
        world.main(_show, progress, out, f"iteration {t}")
        world.main(retention.prune, cfg, folder)
        world.main(session.push)
        give_back()

    with (
        run_progress(total, initial=first, show=world.is_main) as progress,
        overlapping(session, conclude) as overlap,
    ):
        if cfg.samples:
            proto_synthetic(session)  # y0 ~ pi_theta_0, once
        base_evaluation(session)
        world.main(_show, progress, folder.base, "base")
        world.main(session.push)
        for t in range(first, total):
            fresh = not world.exists(folder.iteration(t).done)
            played = fresh and linked_or(partial(play_iteration, overlap), session, t)
            if overlap.behind != t:
                overlap.settle()
                conclude(t, played=played, fresh=fresh)


def play_iteration(overlap: Overlap, session: Session, t: int) -> None:
    """One turn of Algorithm 1's loop: theta_t+1 from theta_t."""
    iteration, exists = IterationStages(session, t), session.world.exists
    out = iteration.out
    if session.cfg.curriculum_at(t) and not exists(out.choices):
        iteration.choose()  # the prompts that get a new y', where not all do
    if session.cfg.samples and not exists(out.synthetic):
        iteration.synthesise()  # y' ~ pi_theta_t
    if iteration.loss.reference_roles and not exists(out.ref_scores):
        iteration.score_reference()  # log pi_theta_t
    if not (exists(out.checkpoint) and exists(out.metrics)):
        # The note of a twin, where a kill came before its done.json.
        session.world.main(remove, out.removed)
        iteration.train()  # theta_t+1 minimises the objective
    session.world.main(out.clear_train_state)
    if overlap.takes(t):  # the rest is made beside iteration t + 1
        return
    iteration.judge()  # log pi_theta_t+1, and what it answers to held-out prompts
    session.world.main(iteration.finish)


# --- around it -----------------------------------------------------------------------------------


def run(cfg: Run, *, command: list[str], alone: bool = False) -> list[dict[str, Any]]:
    """Runs or resumes self-play in cfg.folder. -> one row of results per iteration

    alone  whether it says at length what it begins: not one of many runs
    Raises ValueError for what a user can mend: unreachable model or data, a folder in use or with
    another configuration.
    """
    determinism.before_cuda(cfg.compute)
    world = join(cfg.compute, cfg.optim, quantize=cfg.model.quantize)
    with stopping_together(world):
        folder = RunDir(cfg.folder)
        complete = world.main(preflight.look, cfg, folder)
        fresh = world.is_main and not folder.config.exists()
        with world.held(folder.path), _nothing_left_of_a_failed_start(folder, fresh=fresh):
            asked, cfg = cfg, world.main(preflight.claim, cfg, folder)
            with _visible(cfg, folder, world, complete=complete) as push:
                if complete:
                    log.info("%s is complete: nothing to do", folder.path)
                    # maybe configured to keep less than before
                    world.main(retention.prune, cfg, folder)
                else:
                    if alone:
                        once(banner.beginning(asked))  # where nobody has (banner.is_plain)
                    else:
                        log.info("%s", folder.path)
                    with (
                        threads(num_threads(cfg, world)),
                        _session(cfg, folder, world, command, push, alone=alone) as session,
                    ):
                        play(session)
            return world.main(report.results, folder)


@contextmanager
def _nothing_left_of_a_failed_start(folder: RunDir, *, fresh: bool) -> Iterator[None]:
    """A run that a user has to mend before anything is sampled leaves no folder.

    fresh  whether this launch made the folder; of the main process alone
    """
    try:
        yield
    except ValueError:
        if fresh and not folder.provenance.exists():
            remove(folder.path)
        raise


@contextmanager
def _visible(
    cfg: Run, folder: RunDir, world: World, *, complete: bool
) -> Iterator[Callable[[], None]]:
    """What others see of a run that lives: its heartbeat, and its copy elsewhere.

    -> what brings the copy up to date, to be called by the main process alone
    """
    if not world.is_main:
        yield lambda: None
        return
    with ExitStack() as stack:
        push = stack.enter_context(
            mirror.mirrored(cfg.sync, folder, grace=cfg.compute.grace_seconds)
        )
        if not complete:
            stack.enter_context(heartbeat.beating(folder))
        yield push


@contextmanager
def _session(
    cfg: Run,
    folder: RunDir,
    world: World,
    command: list[str],
    push: Callable[[], None],
    *,
    alone: bool,
) -> Iterator[Session]:
    """The run, ready to be played: prompts prepared, the beginning checked, the launch recorded."""
    preflight.check_same_folder(cfg, folder)
    fresh = not (world.exists(folder.prompts) and world.exists(folder.data))
    cfg, initial = _prepared(cfg, folder, world, fresh=fresh)
    give_back()  # the texts
    inputs = Inputs(cfg, folder, initial)
    arithmetic = dtypes.facts(cfg.compute, cfg.optim.precision, cfg.model)
    if alone:
        data, chosen = read_json(folder.data), start.settled(folder)
        log.info("%s", banner.rows(cfg, data, inputs.prompts, chosen, arithmetic))
    policies = policies_of(cfg, lambda weights: world.main(check_sums, weights))
    if fresh:
        policies(initial)  # weights that cannot be loaded are no run
    world.main(preflight.check_same_beginning, cfg, folder, inputs)
    world.main(_record, cfg, folder, world, command)
    run_id, whole = world.main(sessions.begin, folder, cfg.track.wandb)
    shown = backends.of_launch(cfg.track, folder, run_id, whole=whole) if world.is_main else []
    with Tracker(shown) as tracker:
        yield Session(cfg, folder, world, policies, inputs, tracker, push)


def _prepared(cfg: Run, folder: RunDir, world: World, *, fresh: bool) -> tuple[Run, Path]:
    """Prompts encoded, by the tokenizer alone. -> cfg, settled; the folder of theta_0

    fresh  whether they are to be made
    """
    rows = cache(partial(annotated.load, cfg.data))  # by the main process, once
    if fresh:
        cfg = world.main(preflight.hold_out, cfg, folder, rows)
    initial = world.first_on_node(preflight.fetch, cfg)
    if fresh:
        world.main(_prepare, cfg, folder, initial, rows)
    return world.main(preflight.scale, cfg, folder), initial


def _prepare(cfg: Run, folder: RunDir, initial: Path, rows: Callable[[], Dataset]) -> None:
    prepare(cfg, folder, policy.renderer(initial, template=Rendering.of(cfg)), rows())


def _show(progress: RunProgress, out: Iteration, name: str) -> None:
    """The main held-out number of a policy, as soon as it is known."""
    worth = comparison.worth(out)
    if worth is not None:
        progress.show(f"{worth.name} {worth.number} ({name})")
        log.info("%s: held-out %s %s", name, worth.name, worth)
    if progress.estimate is not None:
        log.info("%s", progress.estimate)


def _record(cfg: Run, folder: RunDir, world: World, command: list[str]) -> None:
    arithmetic = dtypes.resolve(cfg.compute, cfg.optim.precision)
    chosen = start.settled(folder)
    processes = {"processes": {"number": world.size, "parallel": world.parallel}}
    provenance.record(
        folder,
        command=command,
        config=dump(cfg),
        **read_json(folder.initial),
        data=read_json(folder.data),
        arithmetic=dtypes.facts(cfg.compute, cfg.optim.precision, cfg.model),
        matmul_rate=matmul_rate(arithmetic.device, arithmetic.products),
        **(processes if world.size > 1 else {}),
        **({"settled": chosen} if chosen else {}),
    )
