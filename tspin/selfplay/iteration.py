"""The stages of Algorithm 1 in their place in a run: of which policy and rows, to which file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tspin.config.run import Run
from tspin.data.triplets import Key, Triplet, epoch, join, keyed, micro_batches
from tspin.distributed.world import World
from tspin.logprobs.padded import ROLES, Role
from tspin.policy import dtypes
from tspin.policy.policy import Policies
from tspin.runs import benchmarks, evaluation
from tspin.runs.artifacts import Iteration, Responses, RunDir, shared_folder
from tspin.sampling import engines
from tspin.selfplay.disk_room import Room
from tspin.selfplay.inputs import Inputs, prompts_digest
from tspin.stages import benchmark
from tspin.stages.evaluate import evaluate
from tspin.stages.generate import generate
from tspin.stages.score import score, write_scores
from tspin.stages.train import train
from tspin.tools import activity
from tspin.tools.files import check_sums, digest_each, link, read_json, write_json
from tspin.tools.parquet import each_row
from tspin.tracking import health, replay
from tspin.tracking.wandb import Tracker

log = logging.getLogger("tspin")


class Stages:
    """What a run does with its policies, its prompts and its folder; selfplay says when.

    initial  folder of theta_0
    push     brings the folder's copy elsewhere up to date
    """

    def __init__(
        self, cfg: Run, folder: RunDir, world: World, policies: Policies, inputs: Inputs,
        tracker: Tracker, push: Callable[[], None],
    ) -> None:  # fmt: skip
        self.cfg, self.folder, self.world = cfg, folder, world
        self.policies, self.inputs, self.tracker, self.push = policies, inputs, tracker, push
        self.initial = inputs.initial
        self.room = Room(cfg, folder, inputs)
        self.warned: set[str] = set()

    def proto(self) -> None:
        """y0 for every prompt, from the initial policy, once for all runs that share its key."""
        cfg, own = self.cfg, self.folder.proto
        if self.world.there(own):
            return
        key = read_json(self.folder.initial) | self.sampling()
        shared = shared_folder(cfg.runs_dir, "proto", cfg.sampling_name, key)
        with self.world.held(shared, wait=True):
            samples = Responses(shared)
            if not self.world.there(samples):
                self._generate(self.initial, samples, 0, "proto: generate", {"key": key})
            elif samples.facts()["key"] != key:
                raise ValueError(f"{shared} holds samples of another policy, data or decoding")
            self.world.alone(partial(link, shared, own.path))

    def base(self) -> None:
        """What the initial policy is worth, once for all runs that share a key."""
        base = self.folder.base
        fresh = bool(self.inputs.heldout) and not self.world.there(base.evaluation)
        if fresh:
            self._evaluate_base()
        # Benchmarks ask neither for prompts nor for a seed: they are shared more widely.
        weights = {"weights": read_json(self.folder.initial)["weights"]}
        if self.cfg.model.quantize is not None:
            weights["quantize"] = self.cfg.model.quantize
        shared = Iteration(shared_folder(self.cfg.runs_dir, "base", self.cfg.model.name, weights))
        if self.world.main(partial(benchmarks.missing, base, self.cfg)):
            with self.world.held(shared.path, wait=True):
                self.benchmark(self.initial, shared, "base: benchmarks")
                self.world.alone(partial(link, shared.benchmarks, base.benchmarks))
            fresh = True
            results = benchmarks.results(base, self.cfg)
            self.world.alone(partial(evaluation.write, base, results))
        if fresh:
            replay.evaluation(base, 0, self.tracker)

    def _evaluate_base(self) -> None:
        heldout = self.inputs.heldout
        key = {
            "weights": read_json(self.folder.initial)["weights"],
            "prompts": prompts_digest(heldout),
            "annotated": digest_each(list(row["annotated_ids"]) for row in heldout),
            "answers": [self._answers_heldout(), self.cfg.data.eval_draws, self.cfg.data.eval_cool],
            **self.sampling(),
        }
        shared = shared_folder(self.cfg.runs_dir, "base", self.cfg.sampling_name, key)
        with self.world.held(shared, wait=True):
            out = Iteration(shared)
            if not self.world.there(out.scores):
                triplets = join(heldout, 0)
                logps = score(
                    self.policies(self.initial),
                    self._score_batches(triplets, ("annotated",)),
                    ("annotated",),
                    total=len(triplets),
                    label="base: score",
                    world=self.world,
                )
                self.world.alone(partial(write_scores, out.scores, triplets, logps))
            if not self.world.there(out.evaluation):
                self.evaluate(self.initial, out, 0, "base: evaluate")
            self.world.alone(partial(link, shared, self.folder.base.path))

    def _answers_heldout(self) -> bool:
        """Whether held-out prompts are answered: where it can be checked, or sampling is done."""
        return self.inputs.check is not None or self.cfg.samples

    def sampling(self) -> dict[str, Any]:
        """How responses are drawn, as part of the key of what is made from them."""
        return {
            "decoding": self.cfg.sampling,
            "arithmetic": dtypes.sampling_key(
                self.cfg.compute, self.cfg.optim.precision, self.cfg.model
            ),
            "seed": self.cfg.seed,
        }

    def synthesise(self, t: int) -> None:
        """y' for every prompt, from the policy at the start of iteration t; at t = 0 it is y0."""
        out = self.folder.iteration(t)
        if t == 0:
            self.world.alone(partial(link, self.folder.proto.path, out.synthetic.path))
        else:
            with self.timed(t, "generate"):
                start = self.inputs.start_of(t)
                self._generate(start, out.synthetic, t, f"iteration {t}: generate", {"t": t})
        annotated = {row["id"]: row["annotated_ids"] for row in self.inputs.prompts}
        same, reasons = 0, []
        for row in out.synthetic.each("id", "response_ids", "finish_reason"):
            same += row["response_ids"] == annotated[row["id"]]
            reasons.append(row["finish_reason"])
        self.warn(t, {"cut": health.cut(reasons), "same": health.identical(same, len(reasons))})

    def _generate(self, start: Path, out: Responses, t: int, label: str, facts: dict) -> None:
        self._room(out.path, label, samples=self.room.sizes.samples)
        generate(
            engines.engine_of(start, self.policies, self.cfg, log=out.log),
            {row["id"]: row["prompt_ids"] for row in self.inputs.prompts},
            out,
            how=self.cfg.decoding,
            seed=self.cfg.seed,
            t=t,
            label=label,
            facts=facts,
            world=self.world,
        )

    def score_reference(self, t: int, triplets: Sequence[Triplet]) -> None:
        """log pi_theta_t over the batches that training begins with, then over the held-out."""
        cfg, roles = self.cfg, self.cfg.loss_at(t).roles
        trained = [x for x in triplets if x.split == "train"]
        heldout = [x for x in triplets if x.split == "heldout"]
        first = epoch(trained, batch_size=cfg.optim.batch_size, seed=cfg.seed, t=t, epoch=0)
        label, out = f"iteration {t}: score reference", self.folder.iteration(t)
        self._room(out.path, label, scores=self.room.sizes.ref_scores)
        with self.timed(t, "score"):
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
            self.world.alone(partial(write_scores, out.ref_scores, triplets, logps))

    def train(self, t: int, triplets: Sequence[Triplet]) -> None:
        cfg, out, label = self.cfg, self.folder.iteration(t), f"iteration {t}: train"
        self.world.alone(partial(self.room.to_train, out, label))
        with self.timed(t, "train"):
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
                after_save=self.push if cfg.sync.train_state else None,
            )
            if self.world.shards:  # what samples and scores has the whole policy
                del policy
                self.policies.forget()
            else:
                self.policies.hold(policy, out.checkpoint)

    def score_update(self, t: int, triplets: Sequence[Triplet]) -> None:
        """log pi_theta_t+1 of all roles there are; at t = 0 y0 is y' and needs no third pass."""
        out, loss = self.folder.iteration(t), self.cfg.loss_at(t)
        there = tuple(role for role in ROLES if role in triplets[0].responses)
        roles: tuple[Role, ...] = tuple(r for r in there if t > 0 or r != "proto")
        self._room(out.path, f"iteration {t}: score", scores=self.room.sizes.scores)
        with self.timed(t, "score"):
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
            self.world.alone(partial(write, reference=self._reference(t), loss=loss))

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
        path = self.folder.iteration(t).ref_scores
        return keyed(each_row(path, "id", "source", "role", "logp"))

    def evaluate(self, policy: Path, out: Iteration, t: int, label: str) -> None:
        """eval.json from held-out answers and scores. t: what the policy samples for next"""
        if self._answers_heldout() and not self.world.there(out.answers):
            self._room(out.path, label, answers=self.room.sizes.answers)
            evaluate(
                engines.engine_of(policy, self.policies, self.cfg, log=out.answers_log),
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
        self.world.alone(partial(evaluation.write, out, {}))

    def benchmark(self, policy: Path, out: Iteration, label: str) -> bool:
        """Runs the benchmarks that `out` lacks and writes eval.json anew. -> whether any ran"""
        if not self.world.main(partial(benchmarks.due, out, self.cfg)):
            if lacks := benchmarks.missing(out, self.cfg):
                log.warning(
                    "%s: not made, for the weights were removed: %s", label, ", ".join(lacks)
                )
            return False
        self.world.alone(partial(check_sums, policy))
        self.policies.forget()  # the harness has a process, and the memory, for itself
        self.world.alone(partial(benchmark.benchmark, policy, out, self.cfg, label=label))
        results = benchmarks.results(out, self.cfg)
        self.world.alone(partial(evaluation.write, out, results))
        return True

    @contextmanager
    def timed(self, t: int, name: str) -> Iterator[None]:
        """Adds the seconds of a stage that finishes to stages.json."""
        out = self.folder.iteration(t)
        started = time.monotonic()
        yield

        def add() -> None:
            seconds = read_json(out.stages) if out.stages.exists() else {}
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 3)
            write_json(out.stages, seconds)

        self.world.alone(add)

    def warn(self, t: int, messages: dict[str, str | None]) -> None:
        """Says each kind of warning (health) once, at the iteration that first deserves it."""
        for kind, message in messages.items():
            if message is not None and kind not in self.warned:
                self.warned.add(kind)
                log.warning("iteration %d: %s", t, message)
                activity.warn(kind, f"iteration {t}: {message}")

    def _room(self, place: Path, label: str, **needed: int) -> None:
        self.world.alone(partial(self.room.check, place, label, **needed))
