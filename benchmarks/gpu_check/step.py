"""A training step at the real size: memory beside the plan, speed beside the card's own, kernels.

As many layers of Mistral-7B as the plan says that the card holds; 32 where it can.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import tspin
from benchmarks.gpu_check.models import (
    GB,
    begin_peak,
    fitting,
    peak,
    policy_of,
    recipe_of,
    timed,
    triplets,
)
from benchmarks.gpu_check.results import Figure, Outcome, measured, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.config.run import Run
from tspin.planning.memory import Memory
from tspin.planning.shapes import Shape
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.parallel import Strategy
from tspin.training.schedule import begin_step
from tspin.training.step import gradient_step
from tspin.training.throughput import Speed

GOAL = 0.45  # of what the card's own matrix products sustain
NEAR = 0.10  # of the plan
STEPS = 3
TOP = 15
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
MICRO_BATCH = 6
PACKAGE = str(Path(tspin.__file__).parent)


def as_configured(setting: Setting) -> Iterator[Outcome]:
    """Float32 weights where they fit, else bf16_stochastic; layers computed again."""
    return _step(setting, checkpointing=True, precisions=("fp32_master", "bf16_stochastic"))


def without_checkpointing(setting: Setting) -> Iterator[Outcome]:
    return _step(setting, checkpointing=False, precisions=("bf16_stochastic",))


def _step(
    setting: Setting, *, checkpointing: bool, precisions: tuple[str, ...]
) -> Iterator[Outcome]:
    shape, run, plan = _fitting(setting, checkpointing, precisions)
    policy = policy_of(setting, shape, run)
    policy.model.train(checkpointing)
    optimizer, strategy = build_optimizer(policy, run.optim), Strategy(policy)
    recipe = recipe_of(run, run.loss_at(1))
    batch = triplets(shape, run.optim.batch_size, setting.lengths())
    cut = Cut.of(run.compute)
    speed = Speed(policy, recipe.loss.roles)  # measures the card's products, in this process
    begin_step(policy, optimizer, recipe, 0, 1000)

    def step(count: int = len(batch)) -> None:
        _, fits = gradient_step(strategy, optimizer, batch[:count], recipe, cut, where="step")
        if fits != cut:
            raise MemoryError(f"{cut} did not fit, {fits} did")

    begin_peak(setting)
    step()  # the first makes the optimiser's state, and loads kernels
    seconds = min(timed(setting, step) for _ in range(STEPS))
    facts: dict[str, Figure] = {"layers": shape.layers, "precision": run.optim.precision}
    facts["checkpointing"] = str(checkpointing)
    yield _memory(setting, plan, facts)
    figures = speed.of_step(batch, cut, seconds)
    share = figures["flop_utilisation"]
    yield measured(
        "speed",
        {
            **facts,
            "share of matrix peak": share,
            "TFLOP/s": share * speed.peak / 1e12,
            "matrix peak TFLOP/s": speed.peak / 1e12,
            "useful tokens/s": figures["useful_tokens_per_second"],
            "tokens/s": figures["tokens_per_second"],
            "ms a triplet": 1000 * seconds / len(batch),
            "attention": ", ".join(policy.kernels),
        },
        missed=f"below the goal of {GOAL:.0%} of the matrix peak" if share < GOAL else "",
    )
    yield _profile(setting, lambda: step(MICRO_BATCH))
    if not setting.tiny:
        yield _syncs(lambda: step(MICRO_BATCH))


def _fitting(
    setting: Setting, checkpointing: bool, precisions: tuple[str, ...]
) -> tuple[Shape, Run, Memory]:
    """The most layers, and the first of the precisions, whose plan the card has room for."""
    prompt, annotated, sampled, _ = setting.lengths()
    words = (
        f"model.max_length={prompt + annotated}",
        f"model.max_prompt_length={prompt}",
        f"decoding.max_new_tokens={sampled}",
        # Triplets of one length: the plan's longest micro-batch is the one that is trained.
        "compute.max_tokens=null",
        f"compute.micro_batch={MICRO_BATCH}",
        f"optim.batch_size={setting.sized(4, 2) * MICRO_BATCH}",
        f"compute.gradient_checkpointing={str(checkpointing).lower()}",
    )
    runs = [setting.run(*words, f"optim.precision={precision}") for precision in precisions]
    return fitting(setting, runs, lambda plan: plan.training)


def _memory(setting: Setting, plan: Memory, facts: dict[str, Figure]) -> Outcome:
    """The peak of steps with the optimiser's state there, CUDA's own context left out."""
    planned = plan.training - plan.context
    figures = {**facts, "planned GB": planned / GB}
    if setting.tiny:
        return Outcome("peak of memory", "skipped", figures, "the CPU counts no peak of its own")
    taken = peak(setting)
    free, total = torch.cuda.mem_get_info()
    figures |= {
        "peak GB": taken / GB,
        "of the plan": taken / planned,
        "reserved GB": torch.cuda.max_memory_reserved() / GB,
        "card GB in use": (total - free) / GB,
        "context GB": (total - free - torch.cuda.memory_reserved()) / GB,
        "context planned GB": plan.context / GB,
    }
    rule = f"the peak is to be within {NEAR:.0%} of the plan (python -m tspin plan)"
    return verdict("peak of memory", abs(taken / planned - 1) <= NEAR, figures, rule=rule)


def _profile(setting: Setting, step: Callable[[], None]) -> Outcome:
    """Where the time of one micro-batch and an update goes, by kernel."""
    activities = [ProfilerActivity.CPU]
    activities += [] if setting.tiny else [ProfilerActivity.CUDA]
    with profile(activities=activities) as record:
        timed(setting, step)
    events = record.key_averages()
    kernels = [(_seconds(event, setting.tiny), event) for event in events]
    kernels = [(spent, event) for spent, event in kernels if spent > 0]
    kernels.sort(key=lambda kernel: -kernel[0])
    total = sum(spent for spent, _ in kernels)
    lines = [
        f"{spent / total:.1%}, {1000 * spent:.2f} ms, {event.count} times: `{event.key[:100]}`"
        for spent, event in kernels[:TOP]
    ]
    counts = {event.key: event.count for event in events if event.key in SYNCS}
    figures: dict[str, Figure] = {"ms of kernels": 1000 * total, "kinds": len(kernels), **counts}
    return verdict(
        f"top {TOP} kernels of {MICRO_BATCH} triplets",
        bool(kernels),
        figures,
        rule="the profiler has recorded no kernel (is CUPTI there?)",
        details=lines,
    )


def _seconds(event: Any, on_cpu: bool) -> float:
    """Of a kernel of the device alone; 0 for what is none."""
    if on_cpu:
        return float(event.self_cpu_time_total) / 1e6
    if event.device_type != torch.autograd.DeviceType.CUDA:
        return 0.0
    if getattr(event, "is_user_annotation", False):  # spans kernels, which are counted themselves
        return 0.0
    return float(event.self_device_time_total) / 1e6


def _syncs(step: Callable[[], None]) -> Outcome:
    """How often the host waits for the card in a step, and where torch says that it does."""
    places: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            frames = [f for f in traceback.extract_stack() if f.filename.startswith(PACKAGE)]
            place = "the backward pass or a library"
            if frames:
                place = f"tspin{frames[-1].filename.removeprefix(PACKAGE)}:{frames[-1].lineno}"
            places[place] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    lines = [f"{count} times {place}" for place, count in places.most_common()]
    figures: dict[str, Figure] = {"waits": sum(places.values()), "places": len(places)}
    return measured(f"host waits in a step of {MICRO_BATCH} triplets", figures, details=lines)
