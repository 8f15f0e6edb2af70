"""torch.compile of each layer (compute.compile): the same numbers, and how much faster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu_check.models import (
    apart_per_token,
    cosine,
    gradient,
    random_model,
    recipe_of,
    renderer_of,
    timed,
    triplets,
)
from benchmarks.gpu_check.results import Outcome, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.data.triplets import Triplet
from tspin.objectives import ROLES
from tspin.policy.kernels import compile_layers
from tspin.policy.policy import load
from tspin.stages.score import score
from tspin.training.cut import Cut

NATS = 0.01  # a token: fused kernels round in other places
COSINE = 0.999


def compiled(setting: Setting) -> Iterator[Outcome]:
    shape, folder = setting.mistral(4), setting.folder / "model"
    random_model(setting, shape, dtype=torch.bfloat16).save_pretrained(folder)
    renderer_of(shape).tokenizer.save_pretrained(folder)
    batch = triplets(shape, 8, setting.lengths(), spread=0.5)
    eager, logps, gradients = _computed(setting, folder, batch, on=False)
    fast, their_logps, theirs = _computed(setting, folder, batch, on=True)
    apart, alike = apart_per_token(logps, their_logps, batch, ROLES), cosine(gradients, theirs)
    yield verdict(
        "layers compiled",
        apart < NATS and alike > COSINE,
        {
            "nats a token at most": apart,
            "cosine": f"{alike:.6f}",
            "ms eager": 1000 * eager,
            "ms compiled": 1000 * fast,
            "times as fast": eager / fast,
        },
        rule=f"log-probs are to agree within {NATS} nats a token, gradients above {COSINE}",
    )


def _computed(
    setting: Setting, folder: Path, batch: list[Triplet], *, on: bool
) -> tuple[float, dict[tuple[str, int, str], float], list[torch.Tensor]]:
    """-> seconds of a gradient once all is compiled, scores, the gradient"""
    by_key = on and not setting.tiny
    run, cut = setting.run(f"compute.compile={str(by_key).lower()}"), Cut(4, None)
    policy = load(folder, template="none", compute=run.compute, precision=run.optim.precision)
    if on and setting.tiny:  # all but machine code, which takes a CPU a minute
        compile_layers(policy.model, backend="aot_eager")
    policy.model.train()
    recipe = recipe_of(run, run.loss_at(1))
    _, gradients = gradient(policy, batch, recipe, cut)
    seconds = min(timed(setting, lambda: gradient(policy, batch, recipe, cut)) for _ in range(3))
    policy.model.eval()
    logps = score(policy, cut.micro_batches(batch, ROLES), ROLES, label="scores").logps
    return seconds, logps, gradients
