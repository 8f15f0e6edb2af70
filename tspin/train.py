"""Stage: from theta_t and its triplets to theta_t+1.

One optimiser step: token ids -> log-probs -> loss -> gradient, accumulated over micro-batches and
divided by the examples of the whole batch, so that the cut never changes the gradient. Optimiser
and learning-rate schedule are new in every iteration. The learning rate, and the noise of
optim.precision=bf16_stochastic, are functions of the step, and dropout is off, so weights,
optimiser tensors and the step are the whole state: a run that was killed goes on from the last
save and ends with the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tspin import preemption, quantized
from tspin.artifacts import Iteration
from tspin.config import ComputeConfig, OptimConfig, at
from tspin.console import progress
from tspin.files import atomic
from tspin.logps import Logps
from tspin.losses import Loss, Metrics, mean_metrics
from tspin.model import Policy
from tspin.precision import Optimizer, StochasticRounding
from tspin.seeds import seed_for
from tspin.speed import Speed
from tspin.tracking import StepLog, Tracker
from tspin.triplets import Key, Triplet, epoch, micro_batches, num_tokens, reference_logps

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
) -> None:
    """Updates the policy in place and leaves metrics.jsonl and checkpoint/ in `out`.

    reference  stored log-probs of theta_t, for a loss that needs them
    Raises FloatingPointError at a loss or gradient that is not finite, before it is applied.
    """
    per_epoch = len(epoch(triplets, batch_size=optim.batch_size, seed=seed, t=t, epoch=0))
    num_steps = optim.epochs * per_epoch
    scheduled = (optim.schedule_epochs or optim.epochs) * per_epoch
    optimizer = build_optimizer(policy, optim)
    speed = Speed(policy, loss.roles)
    first = load_state(out.train_state, policy, optimizer) if out.train_state.exists() else 0
    # Checkpointing acts in training mode only, where transformers drops the cache that sampling
    # needs. Dropout is 0, but in adapters if asked for: the two modes compute alike.
    policy.model.train(compute.gradient_checkpointing or policy.dropout)
    saved = time.monotonic()
    batches: list[list[Triplet]] = []
    with (
        StepLog(out.metrics, resume_from=first) as record,
        progress(num_steps, label, "step", initial=first) as bar,
        preemption.held(),
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
                policy, optimizer, batch, loss, reference, optim, compute, where=f"{label} {step}"
            )
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
            record.append(row)
            tracker.log_step({**row, "global_step": steps_before + step})
            bar.update(1, loss=metrics["loss"])
            wanted = preemption.boundary()
            due = step + 1 < num_steps and time.monotonic() - saved >= compute.save_seconds
            if wanted or due:
                record.sync()  # the rows before a saved step must not be lost after it
                save_state(out.train_state, policy, optimizer, step + 1)
                saved = time.monotonic()
            if wanted:
                preemption.stop()
        record.sync()  # nor the last ones after the checkpoint
    policy.model.eval()
    policy.save(out.checkpoint)


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
) -> tuple[dict[str, float], ComputeConfig]:
    """One optimiser step on `batch`; the gradient is the mean over its examples.

    -> metrics; `compute` with what fits into memory: what was given, or a smaller cut
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            losses, found = accumulate(policy, batch, loss, reference, compute)
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
    grad_norm = clip_gradient(policy, optim.max_grad_norm)
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
) -> tuple[list[Tensor], list[Metrics]]:
    """Adds the gradient of the batch's mean loss. -> losses and metrics, part by part"""
    losses: list[Tensor] = []
    found: list[Metrics] = []

    def judge(part: Sequence[Triplet], logps: Logps) -> Tensor:
        ref = None
        if loss.needs_reference:
            assert reference is not None
            ref = reference_logps(reference, part, loss.roles, logps.annotated)
        values, metrics = loss(logps, ref)
        losses.append(values.detach())
        found.append(metrics | _per_token(logps, part))
        return values

    for micro in micro_batches(
        batch, loss.roles, size=compute.micro_batch, max_tokens=compute.max_tokens
    ):
        (policy.loss_sum(micro, loss.roles, judge) / len(batch)).backward()
    return losses, found


def halved(compute: ComputeConfig, batch: Sequence[Triplet], loss: Loss) -> ComputeConfig | None:
    """The same with half the tokens or triplets at a time; None where each goes alone already."""
    if compute.max_tokens is None:
        size = min(compute.micro_batch, len(batch))
        return replace(compute, micro_batch=size // 2) if size > 1 else None
    longest = max(num_tokens([triplet], loss.roles) for triplet in batch)
    all_there = min(compute.max_tokens, num_tokens(batch, loss.roles))
    return replace(compute, max_tokens=all_there // 2) if all_there > longest else None


def clip_gradient(policy: Policy, limit: float | None) -> float:
    """Scales the gradient down to a norm of `limit`. -> its norm before, in float32 at least"""
    gradients = [p.grad for p in policy.model.parameters() if p.grad is not None]
    norms = [
        torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32))
        for g in gradients
    ]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(policy.model.parameters(), limit, norm)
    return float(norm)


def build_optimizer(policy: Policy, optim: OptimConfig) -> Optimizer:
    """A new optimiser. RMSprop has no bias correction: its first steps want a warm-up."""
    weights = [parameter for _, parameter in trained(policy.model)]
    if optim.precision == "bf16_stochastic":
        return StochasticRounding(weights, partial(torch_optimizer, optim=optim))
    return torch_optimizer(weights, optim)


def torch_optimizer(
    parameters: Sequence[torch.nn.Parameter], optim: OptimConfig
) -> torch.optim.Optimizer:
    """On these parameters: torch's own, with state in their dtype, or one with 8-bit state."""
    if optim.state == "8bit":
        return quantized.optimizer(parameters, optim)
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


def trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """What is not frozen, by name."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def save_state(path: Path, policy: Policy, optimizer: Optimizer, next_step: int) -> None:
    """Trained weights, optimiser tensors and the next step as one safetensors file."""
    tensors = {f"model/{name}": p.detach() for name, p in trained(policy.model)}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    with atomic(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"next_step": str(next_step)},
        )


def load_state(path: Path, policy: Policy, optimizer: Optimizer) -> int:
    """The inverse of save_state, in place. -> the next step"""
    state: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, parameter in trained(policy.model):
            parameter.copy_(file.get_tensor(f"model/{name}"))
        for name in file.keys():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                index, _, key = rest.partition("/")
                state.setdefault(int(index), {})[key] = file.get_tensor(name)
        next_step = int(file.metadata()["next_step"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return next_step


def _per_token(logps: Logps, micro: Sequence[Triplet]) -> dict[str, torch.Tensor]:
    """log pi(z | x) / number of response tokens, by role, each (batch,) in nats."""
    result = {}
    for role in logps.present():
        lengths = [len(t.responses[role]) for t in micro]
        value = logps[role].detach()
        result[f"logps_per_token/{role}"] = value / torch.tensor(lengths, device=value.device)
    return result
