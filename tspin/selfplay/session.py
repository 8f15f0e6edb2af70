"""A run in progress: what its stages have in common, and each of them bound to it.

Here a stage gets its policy, its disk space and its place in the folder; which rows and files it is
called with, algorithm.py and the modules beside it say.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tspin.config import identity
from tspin.config.run import Run
from tspin.data.templates import Rendering
from tspin.data.triplets import Triplet, micro_batches
from tspin.distributed.world import World
from tspin.objectives import Role
from tspin.policy import determinism, dtypes, finite, policy
from tspin.policy.policy import Policies
from tspin.runs import benchmarks, evaluation, provenance, sharing
from tspin.runs.artifacts import Iteration, Responses, RunDir
from tspin.runs.start import first_iteration
from tspin.sampling import engines
from tspin.sampling.requests import Draws
from tspin.selfplay import first_step
from tspin.selfplay.disk_space import DiskSpace
from tspin.selfplay.inputs import Inputs, annotated_lengths
from tspin.stages import benchmark
from tspin.stages.evaluate import evaluate
from tspin.stages.generate import generate
from tspin.stages.score import Scores, score
from tspin.stages.train import train
from tspin.tools import activity
from tspin.tools.files import check_sums, read_json, write_json
from tspin.tracking.tracker import Tracker
from tspin.training.recipe import Recipe

log = logging.getLogger("tspin")


def policies_of(cfg: Run, check: Callable[[Path], None] = check_sums) -> Policies:
    """Where the policies of a run come from. check: see Policies"""
    load = partial(
        policy.load,
        template=Rendering.of(cfg),
        compute=cfg.compute,
        precision=cfg.optim.precision,
        lora=cfg.model.lora,
        quantize=cfg.model.quantize,
        seed=cfg.seed,
    )
    return Policies(load, check=check)


class Session:
    """One run in progress: its configuration, its folder, its processes, the policy in memory.

    push  brings the folder's copy elsewhere up to date; for the main process
    """

    def __init__(
        self,
        cfg: Run,
        folder: RunDir,
        world: World,
        policies: Policies,
        inputs: Inputs,
        tracker: Tracker,
        push: Callable[[], None],
    ) -> None:
        self.cfg, self.folder, self.world = cfg, folder, world
        self.policies, self.inputs, self.tracker = policies, inputs, tracker
        self.push = push
        self.space = DiskSpace(cfg, folder, inputs, world)
        self._warned: set[str] = set()

    @property
    def samples_key(self) -> dict[str, Any]:
        """How responses are drawn, as part of the key of what is made from them."""
        cfg = self.cfg
        return {
            "decoding": identity.sampling(cfg),
            "arithmetic": dtypes.sampling_key(cfg.compute, cfg.optim.precision, cfg.model),
            "seed": cfg.seed,
        }

    @property
    def answers_heldout(self) -> bool:
        """Whether held-out prompts are answered: where it can be checked, or sampling is done."""
        return self.inputs.grader is not None or self.cfg.samples

    def iteration_key(self, t: int) -> str:
        return sharing.iteration_key(self.cfg, self.folder, t, self.samples_key)

    def generate(
        self,
        policy: Path,
        prompts: Sequence[dict[str, Any]],
        out: Responses,
        t: int,
        *,
        label: str,
        facts: dict[str, Any],
        kept: Collection[str] = (),
    ) -> None:
        """One response to each of these rows of prompts.parquet but those with the ids `kept`, from
        the policy in a folder."""
        self.space.check(out.path, label, samples=self.space.sizes.samples)
        with finite.named(policy):
            generate(
                engines.engine_of(policy, self.policies, self.cfg, log=out.log),
                {row["id"]: row["prompt_ids"] for row in prompts if row["id"] not in kept},
                out,
                Draws(self.cfg.decoding, self.cfg.seed, t),
                label=label,
                facts=facts,
                world=self.world,
            )

    def score(
        self,
        policy: Path,
        batches: Iterable[list[Triplet]],
        roles: tuple[Role, ...],
        *,
        label: str,
        with_tokens: Collection[str] = (),
    ) -> Scores:
        """log-probs of the batches' responses under the policy in a folder."""
        with finite.named(policy), determinism.repeatable(self.cfg.compute):
            held = self.policies.to_infer(policy)
            scores = score(
                held, batches, roles, label=label, with_tokens=with_tokens, world=self.world
            )
        self.note_kernels(held.kernels)
        return scores

    def score_batches(
        self, triplets: Sequence[Triplet], roles: tuple[Role, ...]
    ) -> Iterator[list[Triplet]]:
        """Where nothing is trained on them."""
        compute = self.cfg.compute
        return micro_batches(
            triplets, roles, size=compute.score_batch, max_tokens=compute.max_tokens
        )

    def train(
        self,
        start: Path,
        triplets: Sequence[Triplet],
        out: Iteration,
        recipe: Recipe,
        *,
        label: str,
    ) -> None:
        """From the policy in a folder to out.checkpoint."""
        self.space.check_training(out, label)
        policy = self.policies(start)
        if self.world.shards:
            from tspin.training.sharded import zero_stage  # see strategy_of

            stage = zero_stage(policy, self.cfg.compute, self.world)
            self.world.main(provenance.add_zero_stage, self.folder, stage)
        # From here on the weights in memory are no folder's until they are saved.
        self.policies.forget()
        with determinism.repeatable(self.cfg.compute):
            train(
                policy,
                triplets,
                out,
                recipe,
                tracker=self.tracker,
                steps_before=self.inputs.steps_before(recipe.t),
                label=label,
                world=self.world,
                after_save=self.push if self.cfg.sync.train_state else None,
                after_first=self._warn_early if recipe.t == first_iteration(self.cfg) else None,
            )
        self.note_kernels(policy.kernels)
        if self.world.shards:  # what samples and scores has the whole policy
            del policy
            self.policies.forget()
        else:
            self.policies.hold(policy, out.checkpoint)

    def evaluate(self, policy: Path, out: Iteration, t: int, *, label: str) -> None:
        """eval.json from held-out answers and scores. t: what the policy samples for next"""
        if self.answers_heldout and not self.world.exists(out.answers):
            self.space.check(out.path, label, answers=self.space.sizes.answers)
            with finite.named(policy):
                evaluate(
                    engines.engine_of(policy, self.policies, self.cfg, log=out.answers_log),
                    self.inputs.heldout,
                    out.answers,
                    Draws(self.cfg.decoding, self.cfg.seed, t),
                    self.inputs.grader,
                    data=self.cfg.data,
                    label=label,
                    world=self.world,
                )
        self.world.main(evaluation.write, out, {}, self.inputs.heldout_parts)

    def benchmark(self, policy: Path, out: Iteration, *, label: str) -> bool:
        """Runs the benchmarks that `out` lacks and writes eval.json anew. -> whether any ran"""
        if not self.world.main(benchmarks.due, out, self.cfg):
            if missing := benchmarks.missing(out, self.cfg):
                log.warning(
                    "%s: not made, for the weights were removed: %s", label, ", ".join(missing)
                )
            return False
        self.policies.forget()  # the harness has a process, and the memory, for itself
        self.world.main(self._benchmark, policy, out, label)
        return True

    def _benchmark(self, policy: Path, out: Iteration, label: str) -> None:
        check_sums(policy)
        benchmark.benchmark(policy, out, self.cfg, label=label)
        results = benchmarks.results(out, self.cfg)
        evaluation.write(out, results, self.inputs.heldout_parts)

    @contextmanager
    def timed(self, out: Iteration, stage: str) -> Iterator[None]:
        """Adds the seconds of a stage that finishes to stages.json."""
        started = time.monotonic()
        yield
        self.world.main(self._add_seconds, out, stage, started)

    def _add_seconds(self, out: Iteration, stage: str, started: float) -> None:
        seconds = read_json(out.stages) if out.stages.exists() else {}
        seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 3)
        write_json(out.stages, seconds)

    def note_kernels(self, kernels: list[str]) -> None:
        """What has computed attention, for the record of the launch."""
        self.world.main(provenance.add_kernels, self.folder, kernels)

    def _warn_early(self, row: dict[str, Any]) -> None:
        t, data = first_iteration(self.cfg), read_json(self.folder.data)
        mean_tokens = fmean(annotated_lengths(self.inputs.prompts))
        self.warn(t, first_step.warnings(self.cfg, row, data, mean_tokens))

    def warn(self, t: int, messages: Mapping[str, str | None]) -> None:
        """Says each kind of warning (health) once, at the iteration that first deserves it."""
        for kind, message in messages.items():
            if message is not None and kind not in self._warned:
                self._warned.add(kind)
                log.warning("iteration %d: %s", t, message)
                activity.warn(kind, f"iteration {t}: {message}")
                self.tracker.alert(kind, f"iteration {t}: {message}")
