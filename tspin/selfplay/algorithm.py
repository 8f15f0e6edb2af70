"""Algorithm 1: sample, score, train, score, evaluate, and again from the new policy.

Stages talk through files only, and a stage whose file is there is not run again: that is all that
resuming is. The folder is the state; this module reads it from top to bottom. Several processes
(distributed) run it side by side: the main one says what is there and writes, all of them sample,
score and train.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from tspin.config.run import ADDED, IDENTITY_FREE, Run, dump
from tspin.distributed.world import World, join
from tspin.policy import dtypes, policy, weights
from tspin.policy.policy import Policies
from tspin.runs import heartbeat, mirror, provenance, retention, sharing
from tspin.runs.artifacts import Iteration, RunDir, sharing_lock
from tspin.runs.start import first_iteration
from tspin.selfplay import preflight
from tspin.selfplay.inputs import Inputs
from tspin.selfplay.iteration import Stages
from tspin.stages import benchmark
from tspin.stages.prepare import prepare
from tspin.stages.score import write_contingency
from tspin.tools.files import read_json, remove, write_json
from tspin.tools.parquet import each_row
from tspin.tracking import replay, report
from tspin.tracking.wandb import Tracker
from tspin.training import throughput

log = logging.getLogger("tspin")


def run(cfg: Run, *, command: list[str]) -> list[dict[str, Any]]:
    """Runs or resumes self-play in cfg.folder. -> one row of results per iteration

    Raises ValueError for what a user can mend: unreachable model or data, a folder in use or with
    another configuration.
    """
    world = join(cfg.compute, cfg.optim, lora=cfg.model.lora is not None)
    with world.together():
        return _run(cfg, command, world)


def _run(cfg: Run, command: list[str], world: World) -> list[dict[str, Any]]:
    world.main(partial(preflight.check_reachable, cfg))
    folder = RunDir(cfg.folder)
    world.main(partial(mirror.fetch, cfg.sync, folder, iterations=cfg.selfplay.iterations))
    complete = world.main(partial(preflight.complete, cfg, folder))
    if not complete:
        world.main(partial(benchmark.check, cfg.evals))
    with world.held(folder.path):
        world.main(partial(folder.claim, dump(cfg), free=IDENTITY_FREE, added=ADDED))
        world.main(partial(preflight.check_finished, folder))
        with _signs(cfg, folder, world, complete=complete) as push:
            if complete:
                log.info("%s is complete: nothing to do", folder.path)
                world.main(
                    partial(retention.prune, cfg, folder)
                )  # maybe told to keep less than before
            else:
                if cfg.compute.threads is not None:
                    torch.set_num_threads(cfg.compute.threads)
                _SelfPlay(cfg, folder, world, push).run(command)
        return world.main(partial(report.results, folder))


@contextmanager
def _signs(
    cfg: Run, folder: RunDir, world: World, *, complete: bool
) -> Iterator[Callable[[], None]]:
    """What is seen of a run elsewhere: its copy, which what is given brings up to date (of the main
    process alone), and its heartbeat.
    """
    with ExitStack() as stack:
        if not world.is_main:
            yield lambda: None
            return
        grace = cfg.compute.grace_seconds
        push = stack.enter_context(mirror.mirrored(cfg.sync, folder, grace=grace))
        if not complete:
            stack.enter_context(heartbeat.beating(folder))
        yield push


class _SelfPlay:
    """One run in progress: its configuration, its folder and the policy in memory."""

    def __init__(self, cfg: Run, folder: RunDir, world: World, push: Callable[[], None]) -> None:
        self.cfg = cfg
        self.folder = folder
        self.world = world
        self.push = push

    def run(self, command: list[str]) -> None:
        cfg, folder, world = self.cfg, self.folder, self.world
        log.info("%s", folder.path)
        preflight.check_same_folder(cfg, folder)
        initial = world.first_on_node(partial(weights.fetch, cfg.model))
        policies = self._policies()
        if not (world.there(folder.prompts) and world.there(folder.data)):
            world.alone(lambda: prepare(cfg, folder, policies(initial).renderer))
        inputs = Inputs(cfg, folder, initial)
        world.alone(partial(preflight.check_same_beginning, cfg, folder, inputs))
        world.alone(partial(self._record, command))
        with Tracker(
            replay.identity(folder),
            mode=cfg.track.wandb if world.is_main else "none",
            folder=folder.path,
            run_id=world.main(partial(report.tracking_id, folder)),
        ) as tracker:
            self.inputs, self.tracker = inputs, tracker
            self.stages = stages = Stages(cfg, folder, world, policies, inputs, tracker, self.push)
            if cfg.samples:
                stages.proto()
            stages.base()
            world.alone(self.push)
            for t in range(first_iteration(cfg), cfg.selfplay.iterations):
                fresh = not world.there(folder.iteration(t).done)
                if fresh:
                    self._share_or_iterate(t)
                out = folder.iteration(t)
                if stages.benchmark(out.checkpoint, out, f"iteration {t}: benchmarks") or fresh:
                    replay.evaluation(out, t + 1, tracker)
                world.alone(partial(retention.prune, cfg, folder))
                world.alone(self.push)

    def _share_or_iterate(self, t: int) -> None:
        """Iteration t: linked where another run has made the same one, else played."""
        if not self.cfg.selfplay.share:
            return self._iterate(t)
        key = self._key(t)
        lock = sharing_lock(self.cfg.runs_dir, key)
        with self.world.held(lock, wait=True, what=f"iteration {t}"):
            twin = self.world.main(partial(sharing.find, self.cfg, t, self._key))
            if twin is None:
                self._iterate(t)
            else:
                self.world.alone(partial(self._take, t, twin))

    def _iterate(self, t: int) -> None:
        """From theta_t to theta_t+1: sample, score, train, score, evaluate."""
        out, stages, there = self.folder.iteration(t), self.stages, self.world.there
        if self.cfg.samples and not there(out.synthetic):
            stages.synthesise(t)
        triplets = self.inputs.triplets(t)
        if self.cfg.loss_at(t).needs_reference and not there(out.ref_scores):
            stages.score_reference(t, triplets)
        if not (there(out.checkpoint) and there(out.metrics)):
            # The note of a twin, where a kill came before its done.json.
            self.world.alone(partial(remove, out.removed))
            stages.train(t, [x for x in triplets if x.split == "train"])
        self.world.alone(out.clear_train_state)
        if not there(out.scores):
            stages.score_update(t, [x for x in triplets if x.source == t])
        if self.inputs.heldout and not there(out.evaluation):
            with stages.timed(t, "evaluate"):
                stages.evaluate(out.checkpoint, out, t + 1, f"iteration {t}: evaluate")
        self.world.alone(partial(self._finish, t))

    def _take(self, t: int, twin: Iteration) -> None:
        """Iteration t of another run as this one's, shown as if it had been played here."""
        out = self.folder.iteration(t)
        twin.check()
        seconds = sum(read_json(twin.done)["seconds"].values())
        source = sharing.origin(twin)
        log.info(
            "iteration %d: equal to %s by definition, linked (%.0f s saved)", t, source, seconds
        )
        sharing.take(twin, out)
        replay.steps(self.folder, t, self.tracker)
        replay.iteration(self.folder, t, self.tracker)
        sharing.finish(twin, out)

    def _key(self, t: int) -> str:
        return sharing.iteration_key(self.cfg, self.folder, t, self.stages.sampling())

    def _finish(self, t: int) -> None:
        """What people see of the iteration, its warnings, and done.json, written last."""
        out = self.folder.iteration(t)
        write_contingency(out.contingency, each_row(out.scores))
        report.samples(self.folder, t, count=self.cfg.track.num_samples)
        replay.iteration(self.folder, t, self.tracker)
        self.stages.warn(t, report.warnings(self.folder, t))
        write_json(
            out.done,
            {
                # A kill between a stage's result and its seconds loses the seconds.
                "seconds": read_json(out.stages) if out.stages.exists() else {},
                "key": self._key(t),
                "weights": weights.weight_digest(out.checkpoint),
                "initial_weights": read_json(self.folder.initial)["weights"],
                "files": out.digests(),
            },
        )

    def _policies(self) -> Policies:
        cfg = self.cfg
        return Policies(
            partial(
                policy.load,
                template=cfg.model.template,
                compute=cfg.compute,
                precision=cfg.optim.precision,
                lora=cfg.model.lora,
                quantize=cfg.model.quantize,
                seed=cfg.seed,
            )
        )

    def _record(self, command: list[str]) -> None:
        cfg, folder, world = self.cfg, self.folder, self.world
        found = dtypes.resolve(cfg.compute, cfg.optim.precision)
        launch = {"processes": {"number": world.size, "parallel": world.parallel}}
        provenance.record(
            folder,
            command=command,
            config=dump(cfg),
            **read_json(folder.initial),
            data=read_json(folder.data),
            arithmetic=dtypes.facts(cfg.compute, cfg.optim.precision, cfg.model),
            matmul_rate=throughput.matmul_rate(found.device, found.products),
            **(launch if world.size > 1 else {}),
        )
