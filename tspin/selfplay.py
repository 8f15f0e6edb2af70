"""Algorithm 1: sample, score, train, score, evaluate, and again from the new policy.

Stages talk through files only, and a stage whose file is there is not run again: that is all that
resuming is. The folder is the state; this module reads it from top to bottom. Several processes
(distributed) run it side by side: the main one says what is there and writes, all of them sample,
score and train.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch

from tspin import (
    activity,
    benchmark,
    data,
    disk,
    distributed,
    evaluation,
    health,
    heartbeat,
    keep,
    mirror,
    model,
    outside,
    provenance,
    replay,
    report,
    shapes,
    sharing,
    speed,
)
from tspin.artifacts import Iteration, Responses, RunDir, shared_folder, sharing_lock
from tspin.config import ADDED, IDENTITY_FREE, Run, dump
from tspin.distributed import World
from tspin.evaluate import evaluate
from tspin.files import check_sums, digest, link, read_json, read_rows, remove, write_json
from tspin.generate import generate
from tspin.inputs import Inputs, first_iteration, start_from
from tspin.logps import ROLES, Role
from tspin.model import Policies
from tspin.prepare import prepare, prompts_digest
from tspin.score import score, write_contingency, write_scores
from tspin.tracking import Tracker
from tspin.train import train
from tspin.triplets import Key, Triplet, epoch, join, keyed, micro_batches

log = logging.getLogger("tspin")


def run(cfg: Run, *, command: list[str]) -> list[dict[str, Any]]:
    """Runs or resumes self-play in cfg.folder. -> one row of results per iteration

    Raises ValueError for what a user can mend: unreachable model or data, a folder in use or with
    another configuration.
    """
    world = distributed.join(cfg.compute, cfg.optim, lora=cfg.model.lora is not None)
    with world.together():
        return _run(cfg, command, world)


def _run(cfg: Run, command: list[str], world: World) -> list[dict[str, Any]]:
    world.main(partial(_check_reachable, cfg))
    folder = RunDir(cfg.folder)
    world.main(partial(mirror.fetch, cfg.sync, folder, iterations=cfg.selfplay.iterations))
    complete = world.main(partial(_complete, cfg, folder))
    if not complete:
        world.main(partial(benchmark.check, cfg.evals))
    with world.held(folder.path):
        world.main(partial(folder.claim, dump(cfg), free=IDENTITY_FREE, added=ADDED))
        world.main(partial(_check_finished, folder))
        with _signs(cfg, folder, world, complete=complete):
            if complete:
                log.info("%s is complete: nothing to do", folder.path)
                world.main(partial(keep.prune, cfg, folder))  # maybe told to keep less than before
            else:
                if cfg.compute.threads is not None:
                    torch.set_num_threads(cfg.compute.threads)
                _SelfPlay(cfg, folder, world).run(command)
        return world.main(partial(report.results, folder))


@contextmanager
def _signs(cfg: Run, folder: RunDir, world: World, *, complete: bool) -> Iterator[None]:
    """What the outside sees of a run that lives: its copy elsewhere, its heartbeat."""
    with ExitStack() as stack:
        if world.is_main:
            grace = cfg.compute.grace_seconds
            stack.enter_context(mirror.mirrored(cfg.sync, folder, grace=grace))
            if not complete:
                stack.enter_context(heartbeat.beating(folder))
        yield


class _Artifact(Protocol):
    def exists(self) -> bool: ...


class _SelfPlay:
    """One run in progress: its configuration, its folder and the policy in memory."""

    def __init__(self, cfg: Run, folder: RunDir, world: World) -> None:
        self.cfg = cfg
        self.folder = folder
        self.world = world
        self.initial = world.first_on_node(partial(model.fetch, cfg.model))
        self.warned: set[str] = set()
        self.policies = Policies(
            partial(
                model.load,
                template=cfg.model.template,
                compute=cfg.compute,
                precision=cfg.optim.precision,
                lora=cfg.model.lora,
                quantize=cfg.model.quantize,
                seed=cfg.seed,
            )
        )

    def run(self, command: list[str]) -> None:
        cfg, folder = self.cfg, self.folder
        log.info("%s", folder.path)
        self._same_folder()
        if not (self._there(folder.prompts) and self._there(folder.data)):
            self._alone(lambda: prepare(cfg, folder, self.policies(self.initial).renderer))
        self.inputs = Inputs(cfg, folder, self.initial)
        self._alone(self._same_beginning)
        self.sizes = self._sizes()
        arithmetic = model.arithmetic(cfg.compute, cfg.optim.precision)
        self._alone(lambda: provenance.record(
            folder, command=command, config=dump(cfg), **read_json(folder.initial),
            data=read_json(folder.data),
            arithmetic=model.arithmetic_facts(cfg.compute, cfg.optim.precision, cfg.model),
            matmul_rate=speed.matmul_rate(arithmetic.device, arithmetic.products),
            **self._processes(),
        ))  # fmt: skip
        with Tracker(
            replay.identity(folder),
            mode=cfg.track.wandb if self.world.is_main else "none",
            folder=folder.path,
            run_id=self.world.main(partial(report.tracking_id, folder)),
        ) as tracker:
            self.tracker = tracker
            if cfg.samples:
                self._proto()
            self._base()
            for t in range(first_iteration(cfg), cfg.selfplay.iterations):
                fresh = not self._there(folder.iteration(t).done)
                if fresh:
                    self._share_or_iterate(t)
                out = folder.iteration(t)
                if self._benchmark(out.checkpoint, out, f"iteration {t}: benchmarks") or fresh:
                    replay.evaluation(out, t + 1, tracker)
                self._alone(partial(keep.prune, cfg, folder))

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
                self._alone(partial(self._take, t, twin))

    def _iterate(self, t: int) -> None:
        """From theta_t to theta_t+1: sample, score, train, score, evaluate."""
        out = self.folder.iteration(t)
        if self.cfg.samples and not self._there(out.synthetic):
            self._synthesise(t)
        triplets = self.inputs.triplets(t)
        if self.cfg.loss_at(t).needs_reference and not self._there(out.ref_scores):
            self._score_reference(t, triplets)
        if not (self._there(out.checkpoint) and self._there(out.metrics)):
            # The note of a twin, where a kill came before its done.json.
            self._alone(partial(remove, out.removed))
            self._train(t, [x for x in triplets if x.split == "train"])
        self._alone(out.clear_train_state)
        if not self._there(out.scores):
            self._score_update(t, [x for x in triplets if x.source == t])
        if self.inputs.heldout and not self._there(out.evaluation):
            with self._stage(t, "evaluate"):
                self._evaluate(out.checkpoint, out, t + 1, f"iteration {t}: evaluate")
        self._alone(partial(self._finish, t))

    # --- the stages, with their place in the run ------------------------------------------

    def _proto(self) -> None:
        """y0 for every prompt, from the initial policy, once for all runs that share its key."""
        cfg, own = self.cfg, self.folder.proto
        if self._there(own):
            return
        key = read_json(self.folder.initial) | self._sampling()
        shared = shared_folder(cfg.runs_dir, "proto", cfg.sampling_name, key)
        with self.world.held(shared, wait=True):
            samples = Responses(shared)
            if not self._there(samples):
                self._generate(self.initial, samples, 0, "proto: generate", {"key": key})
            elif samples.facts()["key"] != key:
                raise ValueError(f"{shared} holds samples of another policy, data or decoding")
            self._alone(partial(link, shared, own.path))

    def _base(self) -> None:
        """What the initial policy is worth, once for all runs that share a key."""
        base = self.folder.base
        fresh = bool(self.inputs.heldout) and not self._there(base.evaluation)
        if fresh:
            self._evaluate_base()
        # Benchmarks ask neither for prompts nor for a seed: they are shared more widely.
        weights = {"weights": read_json(self.folder.initial)["weights"]}
        if self.cfg.model.quantize is not None:
            weights["quantize"] = self.cfg.model.quantize
        shared = Iteration(shared_folder(self.cfg.runs_dir, "base", self.cfg.model.name, weights))
        if self.world.main(partial(benchmark.missing, base, self.cfg)):
            with self.world.held(shared.path, wait=True):
                self._benchmark(self.initial, shared, "base: benchmarks")
                self._alone(partial(link, shared.benchmarks, base.benchmarks))
            fresh = True
            results = benchmark.results(base, self.cfg)
            self._alone(partial(evaluation.write, base, results))
        if fresh:
            replay.evaluation(base, 0, self.tracker)

    def _evaluate_base(self) -> None:
        heldout = self.inputs.heldout
        key = {
            "weights": read_json(self.folder.initial)["weights"],
            "prompts": prompts_digest(heldout),
            "annotated": digest([row["annotated_ids"] for row in heldout]),
            "answers": [self._answers_heldout(), self.cfg.data.eval_draws, self.cfg.data.eval_cool],
            **self._sampling(),
        }
        shared = shared_folder(self.cfg.runs_dir, "base", self.cfg.sampling_name, key)
        with self.world.held(shared, wait=True):
            out = Iteration(shared)
            if not self._there(out.scores):
                triplets = join(heldout, 0)
                logps = score(
                    self.policies(self.initial),
                    self._score_batches(triplets, ("annotated",)),
                    ("annotated",),
                    total=len(triplets),
                    label="base: score",
                    world=self.world,
                )
                self._alone(partial(write_scores, out.scores, triplets, logps))
            if not self._there(out.evaluation):
                self._evaluate(self.initial, out, 0, "base: evaluate")
            self._alone(partial(link, shared, self.folder.base.path))

    def _answers_heldout(self) -> bool:
        """Whether held-out prompts are answered: where it can be checked, or sampling is done."""
        return self.inputs.check is not None or self.cfg.samples

    def _sampling(self) -> dict[str, Any]:
        """How responses are drawn, as part of the key of what is made from them."""
        return {
            "decoding": self.cfg.sampling,
            "arithmetic": model.sampling_key(
                self.cfg.compute, self.cfg.optim.precision, self.cfg.model
            ),
            "seed": self.cfg.seed,
        }

    def _synthesise(self, t: int) -> None:
        """y' for every prompt, from the policy at the start of iteration t; at t = 0 it is y0."""
        out = self.folder.iteration(t)
        if t == 0:
            self._alone(partial(link, self.folder.proto.path, out.synthetic.path))
        else:
            with self._stage(t, "generate"):
                start = self.inputs.start_of(t)
                self._generate(start, out.synthetic, t, f"iteration {t}: generate", {"t": t})
        rows = out.synthetic.rows()
        annotated = {row["id"]: row["annotated_ids"] for row in self.inputs.prompts}
        same = sum(row["response_ids"] == annotated[row["id"]] for row in rows)
        reasons = [row["finish_reason"] for row in rows]
        self._warn(t, {"cut": health.cut(reasons), "same": health.identical(same, len(rows))})

    def _generate(self, start: Path, out: Responses, t: int, label: str, facts: dict) -> None:
        self._room(out.path, label, samples=self.sizes.samples)
        generate(
            outside.source(start, self.policies, self.cfg, log=out.log),
            {row["id"]: row["prompt_ids"] for row in self.inputs.prompts},
            out,
            how=self.cfg.decoding,
            seed=self.cfg.seed,
            t=t,
            label=label,
            facts=facts,
            world=self.world,
        )

    def _score_reference(self, t: int, triplets: Sequence[Triplet]) -> None:
        """log pi_theta_t over the batches that training begins with, then over the held-out."""
        cfg, roles = self.cfg, self.cfg.loss_at(t).roles
        trained = [x for x in triplets if x.split == "train"]
        heldout = [x for x in triplets if x.split == "heldout"]
        first = epoch(trained, batch_size=cfg.optim.batch_size, seed=cfg.seed, t=t, epoch=0)
        label, out = f"iteration {t}: score reference", self.folder.iteration(t)
        self._room(out.path, label, scores=self.sizes.ref_scores)
        with self._stage(t, "score"):
            logps = score(
                self.policies(self.inputs.start_of(t)),
                chain(
                    *(
                        micro_batches(
                            b,
                            roles,
                            size=cfg.compute.micro_batch,
                            max_tokens=cfg.compute.max_tokens,
                        )
                        for b in first
                    ),
                    self._score_batches(heldout, roles),
                ),
                roles,
                total=len(triplets),
                label=label,
                world=self.world,
            )
            self._alone(partial(write_scores, out.ref_scores, triplets, logps))

    def _train(self, t: int, triplets: Sequence[Triplet]) -> None:
        cfg, out, label = self.cfg, self.folder.iteration(t), f"iteration {t}: train"
        self._room_to_train(out, label)
        with self._stage(t, "train"):
            policy = self.policies(self.inputs.start_of(t))
            # From here on the weights in memory are no folder's until they are saved.
            self.policies.forget()
            train(
                policy,
                triplets,
                out,
                loss=cfg.loss_at(t),
                reference=self._reference(t),
                optim=cfg.optim,
                compute=cfg.compute,
                tracker=self.tracker,
                seed=cfg.seed,
                t=t,
                steps_before=self.inputs.steps_before(t),
                label=label,
                world=self.world,
            )
            if self.world.shards:  # what samples and scores has the whole policy
                del policy
                self.policies.forget()
            else:
                self.policies.hold(policy, out.checkpoint)

    def _score_update(self, t: int, triplets: Sequence[Triplet]) -> None:
        """log pi_theta_t+1 of all roles there are; at t = 0 y0 is y' and needs no third pass."""
        out, loss = self.folder.iteration(t), self.cfg.loss_at(t)
        there = tuple(role for role in ROLES if role in triplets[0].responses)
        roles: tuple[Role, ...] = tuple(r for r in there if t > 0 or r != "proto")
        self._room(out.path, f"iteration {t}: score", scores=self.sizes.scores)
        with self._stage(t, "score"):
            logps = score(
                self.policies(out.checkpoint),
                self._score_batches(triplets, roles),
                roles,
                total=len(triplets),
                label=f"iteration {t}: score",
                world=self.world,
            )
            if roles != there:
                logps |= {(i, s, "proto"): v for (i, s, r), v in logps.items() if r == "synthetic"}
            write = partial(write_scores, out.scores, triplets, logps)
            self._alone(partial(write, reference=self._reference(t), loss=loss))

    def _score_batches(
        self, triplets: Sequence[Triplet], roles: tuple[Role, ...]
    ) -> Iterator[list[Triplet]]:
        compute = self.cfg.compute
        return micro_batches(
            triplets, roles, size=compute.score_batch, max_tokens=compute.max_tokens
        )

    def _reference(self, t: int) -> dict[Key, float] | None:
        """The stored log-probs of theta_t, where the objective asks for them."""
        if not self.cfg.loss_at(t).needs_reference:
            return None
        return keyed(read_rows(self.folder.iteration(t).ref_scores))

    def _evaluate(self, policy: Path, out: Iteration, t: int, label: str) -> None:
        """eval.json from held-out answers and scores. t: what the policy samples for next"""
        if self._answers_heldout() and not self._there(out.answers):
            self._room(out.path, label, answers=self.sizes.answers)
            evaluate(
                outside.source(policy, self.policies, self.cfg, log=out.answers_log),
                self.inputs.heldout,
                self.inputs.check,
                self.inputs.canonical,
                out.answers,
                data=self.cfg.data,
                how=self.cfg.decoding,
                seed=self.cfg.seed,
                t=t,
                label=label,
                world=self.world,
            )
        self._alone(partial(evaluation.write, out, {}))

    def _benchmark(self, policy: Path, out: Iteration, label: str) -> bool:
        """Runs the benchmarks that `out` lacks and writes eval.json anew. -> whether any ran"""
        if not self.world.main(partial(benchmark.due, out, self.cfg)):
            if lacks := benchmark.missing(out, self.cfg):
                log.warning(
                    "%s: not made, for the weights were removed: %s", label, ", ".join(lacks)
                )
            return False
        self._alone(partial(check_sums, policy))
        self.policies.forget()  # the harness has a process, and the memory, for itself
        self._alone(partial(benchmark.benchmark, policy, out, self.cfg, label=label))
        results = benchmark.results(out, self.cfg)
        self._alone(partial(evaluation.write, out, results))
        return True

    # --- room on the disk -----------------------------------------------------------------

    def _sizes(self) -> disk.Sizes:
        heldout = len(self.inputs.heldout)
        return disk.sizes(
            self.cfg,
            parameters=self._num_trained() or 0,  # unknown: not asked for
            train=len(self.inputs.prompts) - heldout,
            heldout=heldout,
            others=disk.bytes_beside(self.initial),
        )

    def _num_trained(self) -> int | None:
        """Weights that a checkpoint holds."""
        lora = self.cfg.model.lora
        if lora is None:
            return disk.num_parameters(self.initial)
        try:
            return shapes.find(self.cfg.model).adapters(lora)
        except ValueError:  # an architecture whose matrices are not counted
            return None

    def _room(self, place: Path, label: str, **needed: int) -> None:
        def check() -> None:
            least = self.cfg.selfplay.keep == "last"
            earlier = 0 if least else keep.removable(self.cfg, self.folder)
            disk.check_room(place, needed, stage=label, earlier=earlier)

        self._alone(check)

    def _room_to_train(self, out: Iteration, label: str) -> None:
        sizes, there = self.sizes, disk.bytes_in(out.train_state.parent)
        self._room(
            out.path,
            label,
            checkpoint=sizes.checkpoint,
            train_state=max(0, sizes.training - sizes.checkpoint - there),
            metrics=sizes.metrics,
        )

    # --- bookkeeping --------------------------------------------------------------------------

    def _there(self, artifact: _Artifact) -> bool:
        """Whether it is, as the main process sees it: processes never disagree on what to do."""
        return self.world.main(artifact.exists)

    def _alone(self, work: Callable[[], object]) -> None:
        """By the main process, and done when this returns."""

        def done() -> None:
            work()

        self.world.main(done)

    def _same_folder(self) -> None:
        """Refuses nodes that do not share the folder of runs."""
        if not self.folder.config.exists():
            raise ValueError(
                f"runs_dir={self.cfg.runs_dir} is not the same folder on all nodes: "
                f"{self.folder.config} is missing here; use one that they share"
            )

    def _processes(self) -> dict[str, Any]:
        """For the record of a run; nothing where there is one process."""
        if self.world.size == 1:
            return {}
        return {"processes": {"number": self.world.size, "parallel": self.world.parallel}}

    def _same_beginning(self) -> None:
        """Refuses to go on from other weights or prompts than the run began with."""
        now = {
            "weights": model.weight_digest(self.initial),
            "prompts": prompts_digest(self.inputs.prompts),
        }
        if not self.folder.initial.exists():
            write_json(self.folder.initial, now)
        then = read_json(self.folder.initial)
        for key in now:
            if now[key] != then[key]:
                raise ValueError(
                    f"{self.folder.path} began with other {key} (digest {then[key][:12]}, now "
                    f"{now[key][:12]}); give this run a name of its own (name=...)"
                )
        if self.cfg.selfplay.start_from is not None:
            if not self.folder.iteration(first_iteration(self.cfg)).done.exists():
                start_from(self.cfg).weights()  # or why they are not there
            theirs = read_json(start_from(self.cfg).done)["initial_weights"]
            if theirs != now["weights"]:
                raise ValueError(
                    f"selfplay.start_from={self.cfg.selfplay.start_from} descends from another "
                    f"initial policy (digest {theirs[:12]}) than model.path={self.cfg.model.path} "
                    f"({now['weights'][:12]}): y0 would not be its past"
                )

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
        return sharing.iteration_key(self.cfg, self.folder, t, self._sampling())

    def _finish(self, t: int) -> None:
        """What people see of the iteration, its warnings, and done.json, written last."""
        out = self.folder.iteration(t)
        write_contingency(out.contingency, read_rows(out.scores))
        report.samples(self.folder, t, self.inputs.prompts, count=self.cfg.track.num_samples)
        replay.iteration(self.folder, t, self.tracker)
        self._warn(t, report.warnings(self.folder, t))
        write_json(
            out.done,
            {
                # A kill between a stage's result and its seconds loses the seconds.
                "seconds": read_json(out.stages) if out.stages.exists() else {},
                "key": self._key(t),
                "weights": model.weight_digest(out.checkpoint),
                "initial_weights": read_json(self.folder.initial)["weights"],
                "files": out.digests(),
            },
        )

    @contextmanager
    def _stage(self, t: int, name: str) -> Iterator[None]:
        """Adds the seconds of a stage that finishes to stages.json."""
        out = self.folder.iteration(t)
        started = time.monotonic()
        yield

        def add() -> None:
            seconds = read_json(out.stages) if out.stages.exists() else {}
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 3)
            write_json(out.stages, seconds)

        self._alone(add)

    def _warn(self, t: int, messages: dict[str, str | None]) -> None:
        """Says each kind of warning (health) once, at the iteration that first deserves it."""
        for kind, message in messages.items():
            if message is not None and kind not in self.warned:
                self.warned.add(kind)
                log.warning("iteration %d: %s", t, message)
                activity.warn(kind, f"iteration {t}: {message}")


def _complete(cfg: Run, folder: RunDir) -> bool:
    iterations = range(first_iteration(cfg), cfg.selfplay.iterations)
    made = [folder.base, *map(folder.iteration, iterations)]
    if not all(out.done.exists() for out in made[1:]):
        return False
    return not any(benchmark.due(out, cfg) for out in made)


def _check_finished(folder: RunDir) -> None:
    """ValueError where something of a finished iteration has changed since: who reads it later
    would not notice."""
    for t in folder.iterations():
        folder.iteration(t).check()


def _check_reachable(cfg: Run) -> None:
    """ValueError naming everything that is out of reach, before anything is loaded."""
    failures = []
    for check in (
        partial(model.arithmetic, cfg.compute, cfg.optim.precision),
        partial(model.check_reachable, cfg.model),
        partial(outside.check, cfg),
        partial(model.check_small, cfg.model, cfg.optim, cfg.compute),
        partial(data.check_reachable, cfg.data.path, revision=cfg.data.revision),
    ):
        try:
            check()
        except ValueError as error:
            failures.append(str(error))
    if failures:
        raise ValueError("; ".join(failures))
