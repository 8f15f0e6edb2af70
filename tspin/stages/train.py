"""Stage: from theta_t and its triplets to theta_t+1.

One optimiser step: token ids -> log-probs -> loss -> gradient, accumulated over micro-batches and
divided by the examples of the whole batch, so that the cut never changes the gradient. Optimiser
and learning-rate schedule are new in every iteration. The learning rate, and the noise of
optim.precision=bf16_stochastic, are functions of the step, and dropout is off, so weights,
optimiser tensors and the step are the whole state: a run that was killed goes on from the last
save and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tspin.config.run import ComputeConfig, OptimConfig, at
from tspin.data.triplets import Key, Triplet, epoch, micro_batches, num_tokens, reference_logps
from tspin.distributed.world import ALONE, World
from tspin.logprobs.padded import Logps
from tspin.objectives.losses import Loss, Metrics, mean_metrics
from tspin.policy import quantization
from tspin.policy.policy import Policy
from tspin.runs.artifacts import Iteration
from tspin.runs.metrics import StepLog
from tspin.tools import signals
from tspin.tools.files import remove
from tspin.tools.seeds import seed_for
from tspin.tools.terminal import progress
from tspin.tracking.wandb import Tracker
from tspin.training.parallel import Alone, Spread, spread, turns
from tspin.training.stochastic_rounding import Optimizer, StochasticRounding
from tspin.training.throughput import Speed
from tspin.training.train_state import load_state, next_step, save_state, state, trained

log = logging.getLogger("tspin")


def train(
    policy: Policy,
    triplets: Sequence[Triplet],
    out: Iteration,
    *,
    loss: Loss,
    reference: dict[Key, float] | None,
    optim: OptimConfig,
    compute: ComputeConfig,
    tracker: Tracker,
    seed: int,
    t: int,
    steps_before: int,
    label: str,
    world: World = ALONE,
    after_save: Callable[[], None] | None = None,
) -> None:
    """Updates the policy in place and leaves metrics.jsonl and checkpoint/ in `out`.

    Under FSDP2 (world.shards) the policy ends in shards: what follows loads the checkpoint.

    reference  stored log-probs of theta_t, for a loss that needs them
    world      the processes that train together; all of them call this
    after_save called by the main process when a training state was saved to go on from
    Raises FloatingPointError at a loss or gradient that is not finite, before it is applied.
    """
    per_epoch = len(epoch(triplets, batch_size=optim.batch_size, seed=seed, t=t, epoch=0))
    num_steps = optim.epochs * per_epoch
    scheduled = (optim.schedule_epochs or optim.epochs) * per_epoch
    speed = Speed(policy, loss.roles, num_devices=world.size)
    together = spread(policy, world)
    optimizer = build_optimizer(policy, optim)
    first = _resume(out, policy, optimizer, world)
    # Checkpointing acts in training mode only, where transformers drops the cache that sampling
    # needs. Dropout is 0, but in adapters if asked for: the two modes compute alike.
    policy.model.train(compute.gradient_checkpointing or policy.dropout)
    saved = time.monotonic()
    batches: list[list[Triplet]] = []
    record = StepLog(out.metrics, resume_from=first) if world.is_main else None
    with (
        record or contextlib.nullcontext(),
        progress(num_steps, label, "step", initial=first, show=world.is_main) as bar,
        signals.held(),
    ):
        for step in range(first, num_steps):
            if step == first or step % per_epoch == 0:
                batches = epoch(
                    triplets,
                    batch_size=optim.batch_size,
                    seed=seed,
                    t=t,
                    epoch=step // per_epoch,
                )
            batch = batches[step % per_epoch]
            started = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = at(optim.lr, t) * lr_factor(step, scheduled, optim)
                group["seed"] = seed_for(seed, "rounding", t, step)
            if policy.dropout:
                torch.manual_seed(seed_for(seed, "dropout", t, step))
            metrics, compute = gradient_step(
                policy, optimizer, batch, loss, reference, optim, compute, where=f"{label} {step}",
                together=together,
            )  # fmt: skip
            timing = speed.of_step(batch, compute, time.monotonic() - started)
            row = {
                "iteration": t,
                "step": step,
                "epoch": step / per_epoch,
                "progress": (step + 1) / num_steps,
                **metrics,
                "lr": optimizer.param_groups[0]["lr"],
                **timing,
            }
            if record is not None:
                record.append(row)
                tracker.log_step({**row, "global_step": steps_before + step})
            bar.update(1, loss=metrics["loss"])
            # The main process's clock decides for all, a signal to any of them too.
            due = step + 1 < num_steps and time.monotonic() - saved >= compute.save_seconds
            said = world.gather((due, signals.boundary()))
            wanted = any(asked for _, asked in said)
            if wanted or said[0][0]:
                if record is not None:
                    record.sync()  # the rows before a saved step must not be lost after it
                _keep(out, policy, optimizer, step + 1, world)
                if after_save is not None and not wanted:
                    world.alone(after_save)
                saved = time.monotonic()
            if wanted:
                signals.stop()
        if record is not None:
            record.sync()  # nor the last ones after the checkpoint
    policy.model.eval()
    together.save(out.checkpoint)


def gradient_step(
    policy: Policy,
    optimizer: Optimizer,
    batch: Sequence[Triplet],
    loss: Loss,
    reference: dict[Key, float] | None,
    optim: OptimConfig,
    compute: ComputeConfig,
    *,
    where: str,
    together: Spread | None = None,
) -> tuple[dict[str, float], ComputeConfig]:
    """One optimiser step on `batch`; the gradient is the mean over its examples.

    together  how it is spread over processes, which all call this; None: there is one
    -> metrics; `compute` with what fits into memory: what was given, or a smaller cut
    """
    together = together or Alone(policy, ALONE)
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            losses, found = accumulate(policy, batch, loss, reference, compute, together)
            break
        except torch.OutOfMemoryError as error:
            smaller = halved(compute, batch, loss)
            if smaller is None:
                raise
            reason = str(error).split(".", 1)[0]
        # Outside of `except`: the traceback holds on to the tensors that did not fit.
        compute = smaller
        log.warning(
            "%s: %s; from here on compute.micro_batch=%d compute.max_tokens=%s, the gradient is "
            "the same", where, reason, compute.micro_batch, compute.max_tokens,
        )  # fmt: skip
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    value = float(torch.cat(losses).double().mean())
    grad_norm = together.clip(optim.max_grad_norm)
    if not (math.isfinite(value) and math.isfinite(grad_norm)):
        raise FloatingPointError(
            f"{where}: loss {value} and gradient norm {grad_norm} must be finite; batch of "
            f"prompts {', '.join(t.id for t in batch)}. Try a smaller optim.lr or coef.alpha, "
            "optim.max_grad_norm=1.0, or compute.dtype=float32; nothing of this step was applied"
        )
    optimizer.step()
    metrics = {
        "loss": value,
        **mean_metrics(found),
        "grad_norm": grad_norm,
        "num_examples": len(batch),
        "num_tokens": num_tokens(batch, loss.roles),
    }
    return metrics, compute


def accumulate(
    policy: Policy,
    batch: Sequence[Triplet],
    loss: Loss,
    reference: dict[Key, float] | None,
    compute: ComputeConfig,
    together: Spread | None = None,
) -> tuple[list[Tensor], list[Metrics]]:
    """Adds the gradient of the batch's mean loss. -> losses and metrics of all, part by part"""
    together = together or Alone(policy, ALONE)
    found: dict[int, list[tuple[Tensor, Metrics]]] = {}  # by micro-batch, in parts

    def judge(number: int | None, part: Sequence[Triplet], logps: Logps) -> Tensor:
        ref = None
        if loss.needs_reference:
            assert reference is not None
            ref = reference_logps(reference, part, loss.roles, logps.annotated)
        values, metrics = loss(logps, ref)
        if number is not None:
            facts = metrics | _per_token(logps, part)
            found.setdefault(number, []).append((values.detach(), facts))
        return values

    cut = micro_batches(batch, loss.roles, size=compute.micro_batch, max_tokens=compute.max_tokens)
    for turn in turns(list(cut), together.world):
        together.backward(turn, loss.roles, partial(judge, turn.number), len(batch))
    everybodys = _everybodys(found, together.world)
    parts = [part for number in sorted(everybodys) for part in everybodys[number]]
    return [losses for losses, _ in parts], [metrics for _, metrics in parts]


def halved(compute: ComputeConfig, batch: Sequence[Triplet], loss: Loss) -> ComputeConfig | None:
    """The same with half the tokens or triplets at a time; None where each goes alone already."""
    if compute.max_tokens is None:
        size = min(compute.micro_batch, len(batch))
        return replace(compute, micro_batch=size // 2) if size > 1 else None
    longest = max(num_tokens([triplet], loss.roles) for triplet in batch)
    all_there = min(compute.max_tokens, num_tokens(batch, loss.roles))
    return replace(compute, max_tokens=all_there // 2) if all_there > longest else None


def build_optimizer(policy: Policy, optim: OptimConfig) -> Optimizer:
    """A new optimiser. RMSprop has no bias correction: its first steps want a warm-up."""
    weights = [parameter for _, parameter in trained(policy)]
    if optim.precision == "bf16_stochastic":
        return StochasticRounding(weights, partial(torch_optimizer, optim=optim))
    return torch_optimizer(weights, optim)


def torch_optimizer(
    parameters: Sequence[torch.nn.Parameter], optim: OptimConfig
) -> torch.optim.Optimizer:
    """On these parameters: torch's own, with state in their dtype, or one with 8-bit state."""
    if optim.state == "8bit":
        return quantization.optimizer(parameters, optim)
    if optim.name == "rmsprop":
        return torch.optim.RMSprop(
            parameters,
            lr=0.0,
            alpha=optim.rms_alpha,
            eps=optim.eps,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
        )
    return torch.optim.AdamW(
        parameters, lr=0.0, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
    )


def lr_factor(step: int, num_steps: int, optim: OptimConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then decay to 0 at num_steps."""
    warmup = round(optim.warmup * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    left = (num_steps - step) / max(1, num_steps - warmup)
    return {
        "constant": 1.0,
        "linear": left,
        "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))),
    }[optim.schedule]


def _keep(
    out: Iteration, policy: Policy, optimizer: Optimizer, next_step: int, world: World
) -> None:
    """Saves the state of training, then removes older ones."""
    if world.shards:
        from tspin.training import shards

        shards.save_state(out.train_shards(next_step), state(policy, optimizer), next_step, world)
    else:
        world.main(partial(save_state, out.train_state, policy, optimizer, next_step))

    def clear() -> None:
        for step, folder in out.all_train_shards().items():
            if step != next_step or not world.shards:
                remove(folder)
        if world.shards:
            remove(out.train_state)

    world.main(clear)


def _resume(out: Iteration, policy: Policy, optimizer: Optimizer, world: World) -> int:
    """Loads the last state, whatever number of processes saved it. -> the next step, or 0"""

    def last() -> Path | None:
        states = out.all_train_shards()
        if out.train_state.exists():
            states[next_step(out.train_state)] = out.train_state
        return states[max(states)] if states else None

    path = world.main(last)
    if path is None:
        return 0
    if path == out.train_state:
        return load_state(path, policy, optimizer, shards=world.shards)
    from tspin.training import shards

    return shards.load_state(path, policy, optimizer, world)


def _everybodys(
    mine: dict[int, list[tuple[Tensor, Metrics]]], world: World
) -> dict[int, list[tuple[Tensor, Metrics]]]:
    """By micro-batch, on all processes."""
    if world.size == 1:
        return mine
    on_cpu = {
        number: [(losses.cpu(), {k: v.cpu() for k, v in facts.items()}) for losses, facts in parts]
        for number, parts in mine.items()
    }
    return {n: parts for found in world.gather(on_cpu) for n, parts in found.items()}


def _per_token(logps: Logps, micro: Sequence[Triplet]) -> dict[str, torch.Tensor]:
    """log pi(z | x) / number of response tokens, by role, each (batch,) in nats."""
    result = {}
    for role in logps.present():
        lengths = [len(t.responses[role]) for t in micro]
        value = logps[role].detach()
        result[f"logps_per_token/{role}"] = value / torch.tensor(lengths, device=value.device)
    return result
