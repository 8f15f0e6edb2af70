"""What all ways share: a case's settings and policy, its batches, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.common import Spent, now
from benchmarks.shapes import Case
from tspin.cli.command import check
from tspin.config.run import Run
from tspin.data.tokens import Renderer
from tspin.data.triplets import Triplet
from tspin.policy import dtypes, products
from tspin.policy.policy import Policy

Work = Callable[[list[Triplet]], Spent]
LR = 1e-6


def settings(case: Case, attention: str, *words: str) -> Run:
    """Of a run as a user would start it, without a warm-up."""
    n = case.batch
    mine = (f"compute={case.device}", f"compute.attention={attention}", f"compute.score_batch={n}")
    rows = n if case.kind == "generation" else n * case.steps
    cut = (f"compute.micro_batch={n}", f"optim.batch_size={n}", f"decoding.batch_size={rows}")
    once = ("optim.epochs=1", "optim.warmup=0", f"optim.lr={LR}")
    return check(["model=micro", "track=none", *mine, *cut, *once, *words]).points[0].run


def clock(case: Case) -> Spent:
    if case.device == "cuda":
        torch.cuda.synchronize()
    return now()


def policy_of(case: Case, run: Run) -> Policy:
    model = case.model_shape.model(case.device)
    how = dtypes.resolve(run.compute, run.optim.precision)
    if run.compute.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    renderer = Renderer(case.model_shape.tokenizer(), "none")
    library = products.use(run.compute, how, model)
    attention = run.compute.attention
    return Policy(model, renderer, how.device, how.autocast, attention, library=library)


def timed(case: Case, work: Callable[[], object]) -> Spent:
    started = clock(case)
    work()
    return clock(case).since(started)


def batches(case: Case, triplets: Sequence[Triplet]) -> list[Sequence[Triplet]]:
    return [triplets[i : i + case.batch] for i in range(0, len(triplets), case.batch)]
