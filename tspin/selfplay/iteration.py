"""Iteration t of Algorithm 1, stage by stage: from theta_t to theta_t+1."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TypeVar

from tspin.data.triplets import Key, Triplet, epoch, keyed
from tspin.objectives import ROLES, Role
from tspin.policy import weights
from tspin.runs import evaluation
from tspin.runs.artifacts import RESPONSES, Responses
from tspin.selfplay.session import Session
from tspin.stages.choose import Choice, choose
from tspin.stages.score import shown, write_contingency, write_scores, write_token_logps
from tspin.tools.files import link, read_json, write_json
from tspin.tools.parquet import each_row, write_rows
from tspin.tracking import replay, report
from tspin.training.cut import Cut
from tspin.training.recipe import Recipe, gentler

T = TypeVar("T")
log = logging.getLogger("tspin")


class IterationStages:
    """What iteration t of a run consists of; each stage leaves its file in `out`."""

    def __init__(self, session: Session, t: int) -> None:
        self.session, self.world, self.t = session, session.world, t
        self.cfg, self.inputs = session.cfg, session.inputs
        self.out, self.loss = session.folder.iteration(t), session.cfg.loss_at(t)

    def choose(self) -> None:
        """Which training prompts get a new y' and a step, by what iteration t - 1 left."""
        with self.session.timed(self.out, "choose"):
            self.world.main(self._choose)

    def synthesise(self) -> None:
        """y' ~ pi_theta_t for every prompt that is there, or those chosen; at t = 0 it is y0."""
        session, out = self.session, self.out.synthetic
        if self.t == 0:
            self.world.main(link, session.folder.proto.path, out.path)
        else:
            with session.timed(self.out, "generate"):
                start, prompts = self.inputs.start_of(self.t), self.inputs.sampled(self.t)
                kept, facts = self.world.main(self._keep), {"t": self.t}
                label = self._label("generate")
                session.generate(start, prompts, out, self.t, label=label, facts=facts, kept=kept)
        session.warn(self.t, report.sample_warnings(session.folder, self.t))

    @cached_property
    def triplets(self) -> Sequence[Triplet]:
        """x, y, y', y0, once they are sampled."""
        return self.inputs.triplets(self.t)

    def score_reference(self) -> None:
        """log pi_theta_t over the batches that training begins with, then over the held-out.

        Iteration t - 1 has scored y under theta_t, in other batches: of the embedded model's a
        third differ from these in their last bits (6e-6 nats at most), which would be the first
        margin against the reference, in place of 0.
        """
        triplets = self.triplets
        cfg, session, roles = self.cfg, self.session, self.loss.reference_roles
        label = self._label("score reference")
        size, cut = cfg.optim.batch_size, Cut.of(cfg.compute)
        first = epoch(self._trained(triplets), batch_size=size, seed=cfg.seed, t=self.t, epoch=0)
        heldout = [triplet for triplet in triplets if triplet.split == "heldout"]
        session.space.check(self.out.path, label, scores=session.space.sizes.ref_scores)
        with session.timed(self.out, "score"):
            # Cut as training cuts them.
            trained = chain.from_iterable(
                cut.micro_batches(batch, self.loss.roles) for batch in first
            )
            batches = [*trained, *session.score_batches(heldout, roles)]
            scores = session.score(self.inputs.start_of(self.t), batches, roles, label=label)
            self.world.main(self._write_reference, triplets, roles, scores.logps)

    def train(self) -> None:
        """theta_t+1: the objective minimised from theta_t, over the training triplets."""
        cfg, session = self.cfg, self.session
        recipe = Recipe(
            loss=self.loss,
            reference=self._reference(),
            weights=self.inputs.weights(self.t),
            optim=cfg.optim,
            compute=cfg.compute,
            seed=cfg.seed,
            t=self.t,
        )
        with session.timed(self.out, "train"):
            start, label = self.inputs.start_of(self.t), self._label("train")
            session.train(start, self._trained(self.triplets), self.out, recipe, label=label)

    def judge(self) -> None:
        """Scores and evaluation of theta_t+1, as far as they are not there."""
        if not self.world.exists(self.out.scores):
            self.score()
        if self.inputs.heldout and not self.world.exists(self.out.evaluation):
            self.evaluate()

    def score(self) -> None:
        """log pi_theta_t+1 of all roles there are; y0 that is y' needs no third pass."""
        session, label = self.session, self._label("score")
        mixed = self.cfg.data.mix_last_two
        own = [triplet for triplet in self.triplets if not mixed or triplet.source == self.t]
        present = tuple(role for role in ROLES if role in own[0].responses)
        is_proto = self.cfg.is_proto(self.t)
        roles: tuple[Role, ...] = tuple(r for r in present if r != "proto" or not is_proto)
        sizes = session.space.sizes
        session.space.check(self.out.path, label, scores=sizes.scores + sizes.token_logps)
        kept = shown(own, self.cfg.track.num_token_logps)
        with session.timed(self.out, "score"):
            batches = session.score_batches(own, roles)
            with_tokens = {triplet.id for triplet in kept}
            checkpoint = self.out.checkpoint
            logps, tokens = session.score(
                checkpoint, batches, roles, label=label, with_tokens=with_tokens
            )
            if roles != present:
                logps |= _of_proto(logps)
                tokens |= _of_proto(tokens)
            reference = self._reference()
            if kept:
                renderer = session.policies.to_infer(checkpoint).renderer
                self.world.main(write_token_logps, self.out.token_logps, kept, tokens, renderer)
            self.world.main(
                write_scores, self.out.scores, own, logps, reference=reference, loss=self.loss
            )

    def evaluate(self) -> None:
        """Answers of theta_t+1 to held-out prompts, and what they say."""
        session, label = self.session, self._label("evaluate")
        with session.timed(self.out, "evaluate"):
            session.evaluate(self.out.checkpoint, self.out, self.t + 1, label=label)

    def finish(self) -> None:
        """What people see of it, its warnings, done.json last. By the main process alone.

        Raises FloatingPointError where the policy has diverged: it is no start for another.
        """
        session, folder, out, t = self.session, self.session.folder, self.out, self.t
        if (reason := evaluation.divergence(out)) is not None:
            raise FloatingPointError(
                f"diverged at iteration {t}: {reason}; {gentler(self.loss, self.cfg.optim, t)}. "
                f"Its weights and scores are in {out.path}"
            )
        write_contingency(out.contingency, each_row(out.scores))
        report.samples(folder, t, self.inputs.proto(t), count=self.cfg.track.num_samples)
        replay.iteration(folder, t, session.tracker)
        session.warn(t, report.warnings(folder, t))
        write_json(
            out.done,
            {
                # A kill between a stage's result and its seconds loses the seconds.
                "seconds": read_json(out.stages) if out.stages.exists() else {},
                "key": session.iteration_key(t),
                "weights": weights.weight_digest(out.checkpoint),
                "initial_weights": read_json(folder.initial)["weights"],
                "files": out.digests(),
            },
        )

    def _choose(self) -> None:
        cfg, before, out = self.cfg, self.inputs.before(self.t), self.out.choices
        how = cfg.curriculum_at(self.t)
        assert how is not None
        annotated = {row["id"]: row["annotated_ids"] for row in self.inputs.train}
        responses: dict[Role, Mapping[str, Sequence[int]]] = {"annotated": annotated}
        sets: dict[Role, Responses] = {
            "synthetic": before.synthetic,
            "proto": self.session.folder.proto,
        }
        responses |= {role: samples.ids() for role, samples in sets.items() if samples.exists()}
        choice = Choice(how, cfg.loss_at(self.t - 1), cfg.seed, self.t, cfg.optim.batch_size)
        choose(responses, before, out, choice)
        num_new = sum(row["chosen"] for row in each_row(out, "chosen"))
        log.info(
            "iteration %d: %d of %d prompts get a new y' (curriculum=%s)",
            self.t,
            num_new,
            len(annotated),
            how.prompts,
        )

    def _keep(self) -> set[str]:
        """Writes the y' that stay. -> the ids of their prompts"""
        if not self.cfg.curriculum_at(self.t):
            return set()
        rows = each_row(self.out.choices, "id", "chosen")
        kept = {row["id"] for row in rows if not row["chosen"]}
        latest = (row for row in self.inputs.before(self.t).synthetic.each() if row["id"] in kept)
        write_rows(self.out.synthetic.kept, latest, RESPONSES)
        return kept

    def _trained(self, triplets: Sequence[Triplet]) -> list[Triplet]:
        """The training rows that get a step: those whose y' is new, and what is mixed with them."""
        mixed = self.cfg.data.mix_last_two
        train = (triplet for triplet in triplets if triplet.split == "train")
        return [triplet for triplet in train if mixed or triplet.source == self.t]

    def _write_reference(
        self, triplets: Sequence[Triplet], roles: Collection[Role], logps: dict[Key, float]
    ) -> None:
        """ref_scores.parquet; of rows that keep their y', as iteration t - 1 has scored them."""
        if self.cfg.curriculum_at(self.t):
            kept = {triplet.id for triplet in triplets if triplet.source < self.t}
            rows = each_row(self.inputs.before(self.t).scores, "id", "source", "role", "logp")
            logps |= keyed(row for row in rows if row["id"] in kept and row["role"] in roles)
        write_scores(self.out.ref_scores, triplets, logps)

    def _reference(self) -> dict[Key, float] | None:
        """The stored log-probs of theta_t, where the objective asks for them."""
        if not self.loss.reference_roles:
            return None
        return keyed(each_row(self.out.ref_scores, "id", "source", "role", "logp"))

    def _label(self, stage: str) -> str:
        return f"iteration {self.t}: {stage}"


def _of_proto(of_synthetic: Mapping[Key, T]) -> dict[Key, T]:
    """What is known of y' as what is known of y0, which at t = 0 is the same."""
    return {(i, s, "proto"): x for (i, s, role), x in of_synthetic.items() if role == "synthetic"}
