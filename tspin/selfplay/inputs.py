"""What an iteration is played with: its starting policy, its samples, its triplets. Only reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tspin.config.run import Run
from tspin.data.annotated import canonical, checker, judge
from tspin.data.triplets import Triplet, join
from tspin.runs.artifacts import Responses, RunDir
from tspin.runs.metrics import StepLog
from tspin.runs.start import first_iteration, start_from
from tspin.stages.evaluate import Grader
from tspin.tools.files import digest_each
from tspin.tools.parquet import each_row


class Inputs:
    """The files of a run as the stages of iteration t want them.

    initial  folder of theta_0
    """

    def __init__(self, cfg: Run, folder: RunDir, initial: Path) -> None:
        self.cfg, self.folder, self.initial = cfg, folder, initial
        parts = ("id", "split", "prompt_ids", "annotated_ids")  # texts stay on the disk
        self.prompts: list[dict[str, Any]] = list(each_row(folder.prompts, *parts))
        self.heldout = [row for row in each_row(folder.prompts) if row["split"] == "heldout"]
        check = checker(cfg.data) if self.heldout else None
        # None without a program that checks answers, or without prompts to be answered.
        self.grader = None if check is None else Grader(check, canonical(cfg.data), judge(cfg.data))

    def start_of(self, t: int) -> Path:
        """The folder of theta_t."""
        if t == 0:
            return self.initial
        if t == first_iteration(self.cfg):
            return start_from(self.cfg).weights()
        return self.folder.iteration(t - 1).weights()

    def synthetic(self, t: int) -> Responses:
        """The responses that theta_t sampled."""
        if t < first_iteration(self.cfg):
            return start_from(self.cfg).synthetic
        return self.folder.iteration(t).synthetic

    def triplets(self, t: int) -> list[Triplet]:
        """All prompts with their responses; with mix_last_two the training ones of t - 1 too."""
        if not self.cfg.samples:
            return join(self.prompts, t)
        proto = self.folder.proto.ids()
        triplets = join(self.prompts, t, self.synthetic(t).ids(), proto)
        if self.cfg.data.mix_last_two and t > 0:
            trained = [row for row in self.prompts if row["split"] == "train"]
            triplets += join(trained, t - 1, self.synthetic(t - 1).ids(), proto)
        return triplets

    def steps_before(self, t: int) -> int:
        """Optimiser steps of the run's iterations before t: the tracker's axis goes on there."""
        done = [self.folder.iteration(k).metrics for k in range(first_iteration(self.cfg), t)]
        return sum(len(StepLog.read(path)) for path in done)


def prompts_digest(rows: Iterable[dict[str, Any]]) -> str:
    """What sampling conditions on: id and token ids of rows of prompts.parquet."""
    return digest_each([row["id"], list(row["prompt_ids"])] for row in rows)
