"""The ways: ours, our plain path, and the libraries people use instead, on the same examples.

A way is built for a case and called with a round's examples. -> what it took, set-up left out
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PrinterCallback, TrainerCallback

from benchmarks import decoding, rivals
from benchmarks.common import Spent
from benchmarks.shapes import SAMPLED, Case
from benchmarks.work import LR, Work, batches, clock, policy_of, settings, timed
from tspin.data import annotated
from tspin.data.tokens import Renderer
from tspin.data.triplets import Key, Triplet, collate, join, keyed, micro_batches
from tspin.objectives import SFT, SPIN, TSPIN, Objective
from tspin.runs.artifacts import Iteration, RunDir
from tspin.stages.prepare import prepare
from tspin.stages.score import score, write_scores
from tspin.stages.train import train
from tspin.tools.files import write_jsonl
from tspin.tools.parquet import read_rows
from tspin.tracking.tracker import Tracker
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.recipe import Recipe
from tspin.training.step import gradient_step
from tspin.training.strategy import Strategy

if TYPE_CHECKING:
    from trl import DPOTrainer

    from tspin.config.run import Run

LAMBDA = 0.1
LOSSES: dict[str, Objective] = {
    "sft": SFT(),
    "pairs": SPIN(lam=LAMBDA),
    "triplets": TSPIN(alpha=1.0, beta=0.1),
}


def recipe_of(run: Run, loss: Objective, reference: dict[Key, float]) -> Recipe:
    return Recipe(loss=loss, reference=reference, optim=run.optim, compute=run.compute, seed=0, t=0)


# --- training steps ------------------------------------------------------------------------------


def steps(
    case: Case, *, attention: str, by_length: bool = False, words: Sequence[str] = ()
) -> Work:
    """Optimiser steps of ours. by_length: like goes with like, as a careful user has it."""
    run, loss = settings(case, attention, *words), LOSSES[case.kind]
    policy = policy_of(case, run)
    policy.model.train(run.compute.gradient_checkpointing)
    optimizer = build_optimizer(policy, run.optim)
    for group in optimizer.param_groups:
        group["lr"] = LR

    def work(triplets: list[Triplet]) -> Spent:
        keys: list[Key] = [(t.id, t.source, role) for t in triplets for role in case.roles]
        reference = dict.fromkeys(keys, -1.0)
        if by_length:
            triplets = sorted(triplets, key=lambda t: t.length(case.roles))

        recipe, strategy = recipe_of(run, loss, reference), Strategy(policy)

        def all_steps() -> None:
            for batch in batches(case, triplets):
                cut = Cut.of(run.compute)
                gradient_step(strategy, optimizer, batch, recipe, cut, where="here")

        return timed(case, all_steps)

    return work


def spin_way(case: Case) -> Work:
    """The official SPIN trainer's way of computing, written by us from its description.

    Chosen and rejected rows padded to one length and concatenated: one forward of the policy and
    one of a live reference, log-softmax over the whole vocabulary at every position.
    """
    run = settings(case, "plain")
    policy = policy_of(case, run)
    policy.model.train(run.compute.gradient_checkpointing)
    reference = deepcopy(policy.model).eval()
    optimizer = build_optimizer(policy, run.optim)

    def advantage(model: torch.nn.Module, triplets: Sequence[Triplet]) -> Tensor:
        batch = collate(triplets, case.roles, pad_id=0).to(policy.device)
        with policy.arithmetic():
            logits = model(batch.input_ids, attention_mask=batch.attention_mask.long()).logits
        logps = logits[:, :-1].float().log_softmax(-1)
        tokens = logps.gather(2, batch.input_ids[:, 1:, None])[:, :, 0]
        chosen, rejected = (tokens * batch.response_mask[:, 1:]).sum(1).chunk(2)
        return chosen - rejected

    def work(triplets: list[Triplet]) -> Spent:
        def all_steps() -> None:
            for batch in batches(case, triplets):
                optimizer.zero_grad()
                current = advantage(policy.model, batch)
                with torch.no_grad():
                    before = advantage(reference, batch)
                (-logsigmoid(LAMBDA * (current - before))).mean().backward()
                optimizer.step()

        return timed(case, all_steps)

    return work


class _Clock(TrainerCallback):
    """From the start of a trainer's loop to the end of its last step."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = clock(self.case)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.spent = clock(self.case).since(self.began)


def trl(case: Case, *, live: bool) -> Work:
    """The library's own trainer, collator and loop; the reference in each step, or before all."""
    model, tokenizer = case.model_shape.model(case.device), case.model_shape.tokenizer()
    reference = deepcopy(model) if live else None

    def work(triplets: list[Triplet]) -> Spent:
        pairs = [(t, list(t.responses["synthetic"])) for t in triplets]
        with tempfile.TemporaryDirectory() as folder:
            watch = _Clock(case)
            trainer = dpo(case, model, reference, tokenizer, pairs, folder)
            trainer.add_callback(watch)
            trainer.train()
        return watch.spent

    return work


def dpo(
    case: Case, model: Any, reference: Any, tokenizer: Any, pairs: Sequence[Any], folder: str
) -> DPOTrainer:
    """trl.DPOTrainer, by default as it is; the same where the comparison wants the same.

    pairs  triplets with the ids of their rejected responses
    """
    from trl import DPOConfig, DPOTrainer

    cuda = case.device == "cuda"
    text = tokenizer.convert_ids_to_tokens
    rows = [
        {
            "prompt": " ".join(text(t.prompt_ids)),
            "chosen": " " + " ".join(text(t.responses["annotated"])),
            "rejected": " " + " ".join(text(rejected)),
        }
        for t, rejected in pairs
    ]
    options = DPOConfig(
        output_dir=folder, per_device_train_batch_size=case.batch, learning_rate=LR, beta=LAMBDA,
        per_device_eval_batch_size=case.batch, num_train_epochs=1, max_length=None,
        precompute_ref_log_probs=reference is None, optim="rmsprop", bf16=cuda, use_cpu=not cuda,
        gradient_checkpointing=cuda, train_sampling_strategy="sequential", save_strategy="no",
        report_to="none", disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=cuda,
    )  # fmt: skip
    data = Dataset.from_list(rows)
    trainer = DPOTrainer(model, reference, options, train_dataset=data, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


# --- an iteration of self-play on pairs: sample, score the reference, train, score, save ----------


def iterate(case: Case) -> Work:
    run = settings(case, "auto", f"decoding.max_new_tokens={SAMPLED}", "model.max_length=4096")
    policy, loss, roles = policy_of(case, run), LOSSES["pairs"], case.roles

    def iteration(triplets: list[Triplet], out: Iteration) -> None:
        sampled = decoding.sample(case, run, policy, triplets)
        pairs = [
            replace(t, responses={"annotated": t.responses["annotated"], "synthetic": ids})
            for t, ids in zip(triplets, sampled, strict=True)
        ]

        def scored() -> dict[Any, float]:
            cut = micro_batches(pairs, roles, size=case.batch)
            return score(policy, cut, roles, label="").logps

        write_scores(out.ref_scores, pairs, scored())
        recipe = recipe_of(run, loss, keyed(read_rows(out.ref_scores)))
        tracker = Tracker([])
        train(policy, pairs, out, recipe, tracker=tracker, steps_before=0, label="")
        write_scores(out.scores, pairs, scored())

    def work(triplets: list[Triplet]) -> Spent:
        with tempfile.TemporaryDirectory() as folder:
            return timed(case, lambda: iteration(triplets, Iteration(Path(folder) / "iter_0")))

    return work


def glued(case: Case) -> Work:
    """The same from stock parts: transformers' generate, then trl's trainer, its reference scored
    before, its evaluation after; as their pages show it."""
    model, tokenizer = case.model_shape.model(case.device), case.model_shape.tokenizer()

    def iteration(triplets: list[Triplet], folder: str) -> None:
        model.eval()
        sampled = decoding.generated(case, model, triplets, "dynamic")
        pairs = list(zip(triplets, sampled, strict=True))
        trainer = dpo(case, model, None, tokenizer, pairs, folder)
        trainer.train()
        trainer.eval_dataset = trainer.train_dataset  # with its reference: not scored again
        trainer.evaluate()
        trainer.save_model(folder)

    def work(triplets: list[Triplet]) -> Spent:
        with tempfile.TemporaryDirectory() as folder:
            return timed(case, lambda: iteration(triplets, folder))

    return work


# --- what is left --------------------------------------------------------------------------------


def files(case: Case) -> Work:
    """Pairs from a file to ids, joined to triplets, their scores written and read. No model."""
    renderer = Renderer(case.model_shape.tokenizer(), "none")

    def write(triplets: list[Triplet], name: Path) -> None:
        text = renderer.tokenizer.decode
        rows = ((text(t.prompt_ids), text(t.responses["annotated"][:-1])) for t in triplets)
        write_jsonl(name, ({"prompt": x, "response": y} for x, y in rows))

    def rows(name: Path, folder: RunDir) -> None:
        fits = "model.max_length=2048"
        run = settings(case, "auto", fits, "data=file", f"data.path={name}", "data.heldout=0")
        prepare(run, folder, renderer, annotated.load(run.data))
        prompts = read_rows(folder.prompts)
        assert all(len(row["prompt_ids"]) < run.max_prompt_length for row in prompts)  # none is cut
        ids = {row["id"]: row["annotated_ids"] for row in prompts}
        triplets = join(prompts, 0, ids, ids)
        keys: list[Key] = [(t.id, 0, role) for t in triplets for role in t.responses]
        logps = dict.fromkeys(keys, -1.0)
        out = folder.iteration(0).scores
        write_scores(out, triplets, logps)
        assert keyed(read_rows(out)) == logps

    def work(triplets: list[Triplet]) -> Spent:
        with tempfile.TemporaryDirectory() as folder:
            name = Path(folder) / "pairs.jsonl"
            write(triplets, name)
            return timed(case, lambda: rows(name, RunDir(Path(folder))))

    return work


def matmul(case: Case) -> Work:
    """Seconds of one product of two square matrices in bfloat16."""
    a, b = torch.randn(2, case.square, case.square, device=case.device, dtype=torch.bfloat16)
    times = 50

    def work(triplets: list[Triplet]) -> Spent:
        spent = timed(case, lambda: [a @ b for _ in range(times)])
        return Spent(spent.wall / times, spent.cpu / times)

    return work


WAYS: dict[str, Callable[[Case], Work]] = {
    "ours": partial(steps, attention="auto"),
    "bfloat16": partial(steps, attention="auto", words=("compute.dtype=bfloat16",)),
    "plain": partial(steps, attention="plain"),
    "sorted": partial(steps, attention="plain", by_length=True),
    "trl_precomputed": partial(trl, live=False),
    "trl_live": partial(trl, live=True),
    "spin_way": spin_way,
    "sample": decoding.generation,
    "dynamic": partial(decoding.generate, cache="dynamic"),
    "static": partial(decoding.generate, cache="static"),
    "products": decoding.products_alone,
    "vllm": partial(rivals.generation, rival="vllm"),
    "llama": partial(rivals.generation, rival="llama"),
    "iterate": iterate,
    "glued": glued,
    "files": files,
    "matmul": matmul,
}
