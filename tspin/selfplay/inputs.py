"""What an iteration is played with: its starting policy, its samples, its triplets. Only reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from sys import intern
from typing import Any

from tspin.config.run import Run
from tspin.data import shift
from tspin.data.annotated import canonical, checker, judge
from tspin.data.triplets import Triplet, join
from tspin.runs.artifacts import Iteration, Responses, RunDir
from tspin.runs.metrics import StepLog
from tspin.runs.start import first_iteration, start_from
from tspin.stages.evaluate import Grader
from tspin.tools.files import digest_each
from tspin.tools.parquet import each_row
from tspin.tools.spill import Spill

IDS = ("prompt_ids", "annotated_ids")


class Inputs:
    """The files of a run as the stages of iteration t want them.

    initial  folder of theta_0
    """

    def __init__(self, cfg: Run, folder: RunDir, initial: Path) -> None:
        self.cfg, self.folder, self.initial = cfg, folder, initial
        columns = ["id", "split", *IDS]  # texts stay on the disk
        columns += ["part"] if cfg.data.shift.timed else []
        spill = Spill()
        self.prompts: list[dict[str, Any]] = [
            row | {"split": intern(row["split"])} | {name: spill.keep(row[name]) for name in IDS}
            for row in each_row(folder.prompts, *columns)
        ]
        self.train = [row for row in self.prompts if row["split"] == "train"]
        self.heldout = [row for row in each_row(folder.prompts) if row["split"] == "heldout"]
        check = checker(cfg.data) if self.heldout else None
        # None without a program that checks answers, or without prompts to be answered.
        self.grader = None if check is None else Grader(check, canonical(cfg.data), judge(cfg.data))

    def start_of(self, t: int) -> Path:
        """The folder of theta_t."""
        return self.initial if t == 0 else self.before(t).weights()

    def before(self, t: int) -> Iteration:
        """Iteration t - 1, of the run that this one goes on from where it is not of this one."""
        if t == first_iteration(self.cfg):
            return start_from(self.cfg)
        return self.folder.iteration(t - 1)

    def proto(self, t: int) -> Responses:
        """The y0 of iteration t."""
        return self.folder.proto_of(self.cfg.data.shift.proto(t))

    def rows(self, t: int) -> Sequence[dict[str, Any]]:
        """The prompts that iteration t is played with: all, or of data that shift those there."""
        return shift.present(self.prompts, self.cfg.data.shift.at(t), self.cfg.seed)

    def weights(self, t: int) -> dict[str, float] | None:
        """Of the training rows of iteration t in the loss, by id; None: all count alike."""
        span = self.cfg.data.shift.at(t)
        return None if span is None else shift.weights(self.rows(t), span)

    def sampled(self, t: int) -> Sequence[dict[str, Any]]:
        """The prompts that get a y' from theta_t. y0 are sampled for all there will ever be: those
        of rows that come later are what theta_t would have said to them, bit for bit.
        """
        return self.prompts if self.cfg.is_proto(t) else self.rows(t)

    @property
    def heldout_parts(self) -> dict[str, int]:
        """Part of each held-out prompt by id; empty where rows have no time."""
        return {row["id"]: row["part"] for row in self.heldout if self.cfg.data.shift.timed}

    def triplets(self, t: int) -> list[Triplet]:
        """Its prompts with their latest responses; with mix_last_two the training ones of t - 1
        too."""
        rows = self.rows(t)
        if not self.cfg.samples:
            return join(rows, t)
        out, proto = self.folder.iteration(t), self.proto(t).ids()
        sources = None
        if self.cfg.curriculum_at(t):
            sources = {row["id"]: row["source"] for row in each_row(out.choices, "id", "source")}
        triplets = join(rows, t, out.synthetic.ids(), proto, sources=sources)
        if self.cfg.data.mix_last_two and t > 0:
            triplets += join(self.train, t - 1, self.before(t).synthetic.ids(), proto)
        return triplets

    def steps_before(self, t: int) -> int:
        """Optimiser steps of the run's iterations before t: the tracker's axis goes on there."""
        done = [self.folder.iteration(k).metrics for k in range(first_iteration(self.cfg), t)]
        return sum(len(StepLog.read(path)) for path in done)


def annotated_lengths(rows: Iterable[dict[str, Any]]) -> list[int]:
    """Tokens of each annotated response that is trained on, of rows of prompts.parquet."""
    return [len(row["annotated_ids"]) for row in rows if row["split"] == "train"]


def prompts_digest(rows: Iterable[dict[str, Any]]) -> str:
    """What sampling conditions on: id and token ids of rows of prompts.parquet."""
    return digest_each([row["id"], list(row["prompt_ids"])] for row in rows)
