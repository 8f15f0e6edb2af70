"""Sampling at the real size: does the plan's batch fit, and how fast is it?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.gpu_check.models import (
    GB,
    begin_peak,
    fitting,
    peak,
    policy_of,
    timed,
)
from benchmarks.gpu_check.results import Figure, Outcome, measured, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.config.run import Run
from tspin.planning.memory import Memory
from tspin.planning.shapes import Shape
from tspin.policy.inference import narrow
from tspin.sampling.native import Native
from tspin.sampling.requests import Draws, Request

GOAL = 2500.0  # tokens a second


def long_prompts(setting: Setting) -> Iterator[Outcome]:
    """The paper's longest: 1792 tokens before 256 sampled ones."""
    return _sample(setting, slots=setting.sized(64, 4), prompt=setting.sized(1792, 20))


def many_prompts(setting: Setting) -> Iterator[Outcome]:
    """More rows at a time, of the usual length."""
    return _sample(setting, slots=setting.sized(256, 8), prompt=setting.sized(400, 9))


def _sample(setting: Setting, *, slots: int, prompt: int) -> Iterator[Outcome]:
    shape, run, plan = _fitting(setting, slots, prompt)
    policy = policy_of(setting, shape, run)
    narrow(policy.model, policy.autocast)  # as Policies.to_infer holds it
    how, draws = run.decoding, Draws(run.decoding, seed=0, t=0)
    random = np.random.default_rng(0)
    requests = [
        Request(random.integers(2, shape.vocab - 1, prompt).tolist(), draws.seed_of(str(i)), 1.0)
        for i in range(slots)
    ]
    engine = Native(policy)
    responses: list[list[int]] = []

    def respond() -> None:
        for _, ids in engine.respond([(0, requests)], how, done=lambda count: None):
            responses.extend(ids)

    begin_peak(setting)
    seconds = timed(setting, respond)
    assert engine.cut is not None
    tokens, fits = sum(map(len, responses)), engine.cut.slots == slots
    figures: dict[str, Figure] = {"layers": shape.layers, "slots": slots, "prompt": prompt}
    planned = plan.sampling - plan.context
    if not setting.tiny:
        figures |= {"peak GB": peak(setting) / GB, "of the plan": peak(setting) / planned}
    yield verdict(
        "memory",
        fits and len(responses) == slots,
        {**figures, "planned GB": planned / GB, "slots in the end": engine.cut.slots},
        rule="all slots are to fit without a batch cut in halves",
    )
    rate = tokens / seconds
    # The reading of the prompts is spread over the decoding steps.
    step = 1000 * seconds / max(map(len, responses))
    yield measured(
        "speed",
        {**figures, "tokens": tokens, "tokens/s": rate, "ms a decoding step": step},
        missed=f"below the goal of {GOAL:g} tokens/s" if rate < GOAL else "",
    )


def _fitting(setting: Setting, slots: int, prompt: int) -> tuple[Shape, Run, Memory]:
    """The most layers whose plan the card has room for."""
    sampled = setting.sized(256, 6)
    run = setting.run(
        f"decoding.batch_size={slots}",
        f"decoding.max_new_tokens={sampled}",
        f"model.max_length={prompt + sampled}",
        f"model.max_prompt_length={prompt}",
    )
    return fitting(setting, [run], lambda plan: plan.sampling)
