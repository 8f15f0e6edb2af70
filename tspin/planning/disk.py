"""What a run writes, in bytes, before it is written; and whether there is room. No torch.

Weights and training state are counted exactly, up to headers; samples, scores and metrics with an
upper bound. So a stage that cannot end for want of room is refused before its work, not after.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tspin.config.run import OptimConfig, Run

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
BESIDE = (".json", ".model", ".txt", ".jinja")
# Upper bounds. A token is an int32 and some characters of text; compressed it is less.
PER_TOKEN, PER_ROW, PER_FILE = 10, 120, 4096
PER_SCORE = 90  # a row of scores.parquet
PER_STEP = 2000  # a row of metrics.jsonl
NEVER = 30 * 24 * 3600.0  # compute.save_seconds from which on no training state is saved


def bytes_of_samples(rows: int, max_new_tokens: int) -> int:
    return rows * (PER_ROW + max_new_tokens * PER_TOKEN) + PER_FILE


def bytes_of_scores(rows: int) -> int:
    return rows * PER_SCORE + PER_FILE


def bytes_of_token_logps(run: Run, prompts: int, roles: int) -> int:
    """Of one file of an iteration."""
    prompts = min(prompts, run.track.num_token_logps)
    if prompts == 0:
        return 0
    tokens = run.model.max_length + (roles - 1) * run.decoding.max_new_tokens
    return bytes_of_samples(prompts * roles, tokens // roles)


def optimizer_tensors(optim: OptimConfig) -> int:
    """Numbers that the optimiser keeps for each weight."""
    return 2 if optim.name == "adamw" else 1 + (optim.momentum > 0)


def weights_dtype(run: Run) -> str:
    """In which trained weights are held and saved."""
    if run.optim.precision == "bf16_stochastic":
        return "bfloat16"
    return "float64" if run.dtype == "float64" else "float32"


def state_dtype(run: Run) -> str:
    """In which the optimiser keeps its numbers, a key of BYTES."""
    return "float32" if run.optim.precision == "bf16_stochastic" else weights_dtype(run)


@dataclass(frozen=True)
class Sizes:
    """Bytes that an iteration of a run writes.

    checkpoint   weights, tokenizer and configuration
    train_state  weights, and the numbers that the optimiser has for each
    training     the most that train_state/ and checkpoint/ take at a time
    """

    checkpoint: int
    train_state: int
    training: int
    samples: int
    ref_scores: int
    scores: int
    token_logps: int
    answers: int
    metrics: int

    @property
    def kept(self) -> int:
        """What an iteration leaves, its checkpoint aside."""
        scores = self.ref_scores + self.scores + self.token_logps
        return self.samples + scores + self.answers + self.metrics

    def of_run(self, iterations: int, *, checkpoints: int) -> int:
        """The most at a time of so many iterations, of which so many checkpoints are kept."""
        before = min(checkpoints, iterations - 1) * self.checkpoint
        return iterations * self.kept + max(before + self.training, checkpoints * self.checkpoint)


def sizes(run: Run, *, parameters: int, train: int, heldout: int, others: int = 0) -> Sizes:
    """parameters: that are trained; train, heldout: prompts; others: bytes beside the weights"""
    weight, optim = BYTES[weights_dtype(run)], run.optim
    checkpoint = parameters * weight + others
    train_state = parameters * (weight + optimizer_tensors(optim) * BYTES[state_dtype(run)])
    if run.compute.save_seconds >= NEVER:
        train_state = 0
    sets = 1 + run.data.mix_last_two
    roles = 3 if run.samples else 1
    answers = run.data.eval_draws + 1 + (run.data.eval_cool is not None)
    steps = optim.epochs * math.ceil(sets * train / optim.batch_size)
    return Sizes(
        checkpoint=checkpoint,
        train_state=train_state,
        # A new state is complete before the old one goes; the last stays until the checkpoint is.
        training=max(2 * train_state, train_state + checkpoint),
        samples=bytes_of_samples(train + heldout, run.decoding.max_new_tokens),
        ref_scores=bytes_of_scores(roles * (sets * train + heldout)),
        scores=bytes_of_scores(roles * (train + heldout)),
        token_logps=bytes_of_token_logps(run, train + heldout, roles),
        answers=bytes_of_samples(answers * heldout, run.decoding.max_new_tokens),
        metrics=steps * PER_STEP,
    )


def num_parameters(folder: Path) -> int | None:
    """Weights in a folder's *.safetensors, from their headers; None where there are none."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(length))
        total += sum(math.prod(x["shape"]) for name, x in header.items() if name != "__metadata__")
    return total or None


def bytes_beside(folder: Path) -> int:
    """Of what a model folder has beside its weights: tokenizer and configuration."""
    files = [file for file in folder.glob("*") if file.suffix in BESIDE and file.is_file()]
    return sum(file.stat().st_size for file in files)


def bytes_in(folder: Path) -> int:
    """Of the files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_room(folder: Path, needed: Mapping[str, int], *, stage: str, earlier: int = 0) -> None:
    """OSError, before the work, where the disk of `folder` has no room for what a stage writes.

    needed   what it is for people -> bytes
    earlier  bytes of checkpoints that nothing of this run needs any more
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free, wanted = shutil.disk_usage(place).free, sum(needed.values())
    if wanted <= free:
        return
    parts = ", ".join(f"{what} {amount(size)}" for what, size in needed.items())
    ways = ["make room", "set runs_dir=FOLDER on another disk"]
    if earlier:
        ways.insert(1, f"add selfplay.keep=last (removes {amount(earlier)} of earlier checkpoints)")
    raise OSError(
        f"{stage} needs {amount(wanted)} on the disk of {folder} ({parts}), where {amount(free)} "
        f"are free: No space left for it. Nothing was begun; {', or '.join(ways)}, and give the "
        "same command again: what is complete is kept"
    )


def amount(size: float) -> str:
    """Bytes in the unit that people would use; 1 GB = 1e9 bytes."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= of:
            return f"{size / of:.3g} {unit}"
    return f"{size:.0f} bytes"
