"""A device that is too small on purpose: what is cut in halves, and that the result stays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from benchmarks.gpu_check.models import (
    GB,
    apart_per_token,
    begin_peak,
    cosine,
    peak,
    policy_of,
    recipe_of,
    taken,
    triplets,
)
from benchmarks.gpu_check.results import Figure, Outcome, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.data.triplets import num_useful
from tspin.objectives import ROLES
from tspin.policy.policy import Policy
from tspin.sampling.native import Native
from tspin.sampling.requests import Draws, Request
from tspin.stages.score import score
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.parallel import Strategy
from tspin.training.step import gradient_step

T = TypeVar("T")
COSINE = 0.9999  # of a gradient with the same, summed over other micro-batches in bfloat16
NATS = 0.01  # a token, of a response scored beside others in bfloat16


def memory(setting: Setting) -> Iterator[Outcome]:
    yield _training(setting)
    yield _sampling(setting)
    yield _scoring(setting)


def _training(setting: Setting) -> Outcome:
    """A batch that fits as two micro-batches and not as one."""
    shape, run = setting.small(), setting.run()
    policy, size = policy_of(setting, shape, run), setting.sized(16, 4)
    optimizer, strategy = build_optimizer(policy, run.optim), Strategy(policy)
    batch, recipe = triplets(shape, size, setting.lengths()), recipe_of(run, run.loss_at(1))

    def step(micro_batch: int) -> tuple[float, list[torch.Tensor], Cut]:
        # The learning rate of a new optimiser is 0: every step has the same weights.
        cut = Cut(micro_batch, None)
        metrics, cut = gradient_step(strategy, optimizer, batch, recipe, cut, where="training")
        gradients = [gradient.cpu() for gradient in taken(policy)]
        optimizer.zero_grad()
        return metrics["loss"], gradients, cut

    step(size // 2)  # makes the optimiser's state
    half, _ = _peak_of(setting, lambda: step(size // 2))
    all_, (loss, gradients, _) = _peak_of(setting, lambda: step(size))
    tokens = 3 * num_useful(batch, ROLES) // 4
    with _limited(setting, policy, (half + all_) / 2, tokens) as halvings:
        short, again, cut = step(size)
    alike = cosine(gradients, again)
    return verdict(
        "training",
        bool(halvings) and alike > COSINE and abs(short / loss - 1) < 1e-3,
        {
            **_peaks(setting, half, all_),
            "micro-batch": f"{size}, then {cut.micro_batch}",
            "cosine": f"{alike:.7f}",
            "loss": loss,
            "loss when short": short,
        },
        rule="the micro-batch is to be halved, and loss and gradient to stay",
    )


def _sampling(setting: Setting) -> Outcome:
    """In float64, where no rounding moves a draw: the samples are the same, one for one."""
    slots, prompt, sampled = setting.sized((64, 512, 16), (8, 9, 4))
    run = setting.run(
        "compute.dtype=float64",
        f"decoding.max_new_tokens={sampled}",
        f"decoding.batch_size={slots}",
        f"model.max_length={prompt + sampled}",
    )
    shape, draws = setting.small(), Draws(run.decoding, seed=0, t=0)
    policy = policy_of(setting, shape, run)
    prompts = triplets(shape, slots, (prompt, 2, 2, 2))
    requests = [Request(t.prompt_ids, draws.seed_of(t.id), 1.0) for t in prompts]

    def respond(count: int) -> tuple[list[list[int]], Native]:
        engine, responses = Native(policy), []
        for start in range(0, slots, count):
            batch = [(start, requests[start : start + count])]
            for _, ids in engine.respond(batch, run.decoding, done=lambda count: None):
                responses += ids
        return responses, engine

    half, _ = _peak_of(setting, lambda: respond(slots // 2))
    all_, (responses, _) = _peak_of(setting, lambda: respond(slots))
    # A pass reads all but the last token of each prompt.
    with _limited(setting, policy, (half + all_) / 2, 3 * slots * (prompt - 1) // 4) as halvings:
        short, engine = respond(slots)
    same = sum(a == b for a, b in zip(responses, short, strict=True))
    assert engine.cut is not None
    return verdict(
        "sampling",
        bool(halvings) and same == slots,
        {
            **_peaks(setting, half, all_),
            "slots": f"{slots}, then {engine.cut.slots}",
            "equal responses": f"{same} of {slots}",
        },
        rule="the slots are to be halved, and every response to be the same",
    )


def _scoring(setting: Setting) -> Outcome:
    shape, run = setting.small(), setting.run()
    policy, size = policy_of(setting, shape, run), setting.sized(64, 8)
    batch = triplets(shape, size, setting.lengths())

    def scores(count: int) -> dict[tuple[str, int, str], float]:
        batches = [batch[i : i + count] for i in range(0, size, count)]
        return score(policy, batches, ROLES, label="scoring").logps

    half, _ = _peak_of(setting, lambda: scores(size // 2))
    all_, logps = _peak_of(setting, lambda: scores(size))
    tokens = 3 * num_useful(batch, ROLES) // 4
    with _limited(setting, policy, (half + all_) / 2, tokens) as halvings:
        short = scores(size)
    apart = apart_per_token(logps, short, batch, ROLES)
    return verdict(
        "scoring",
        bool(halvings) and apart < NATS,
        {
            **_peaks(setting, half, all_),
            "halvings": len(halvings),
            "nats a token at most": apart,
        },
        rule=f"the batch is to be halved, and no score to move by {NATS} nats a token",
    )


def _peak_of(setting: Setting, work: Callable[[], T]) -> tuple[int, T]:
    """Bytes at most while `work` runs, and what it returns."""
    begin_peak(setting)
    result = work()
    return peak(setting), result


def _peaks(setting: Setting, half: int, all_: int) -> dict[str, Figure]:
    if setting.tiny:
        return {}
    return {"half GB": half / GB, "whole GB": all_ / GB}


@contextmanager
def _limited(setting: Setting, policy: Policy, size: float, tokens: int) -> Iterator[list[str]]:
    """A device of `size` bytes for this process; on the CPU one on which no pass of more than
    `tokens` tokens fits. -> the halvings that the log tells of
    """
    halvings, log = list[str](), logging.getLogger("tspin")

    def keep(record: logging.LogRecord) -> bool:
        if "from here on" in record.getMessage():
            halvings.append(record.getMessage())
        return True

    def too_many(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError(f"a pass of more than {tokens} tokens")

    log.addFilter(keep)
    hook = None
    if setting.tiny:
        base = policy.model.base_model
        hook = base.register_forward_pre_hook(too_many, with_kwargs=True)
    else:
        torch.cuda.empty_cache()  # what is cached counts as taken
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(size / total)
    try:
        yield halvings
    finally:
        log.removeFilter(keep)
        if hook is not None:
            hook.remove()
        else:
            torch.cuda.set_per_process_memory_fraction(1.0)
