"""What checks compute with: policies of random weights, triplets of given lengths, gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from benchmarks.gpu_check.results import Skip
from benchmarks.gpu_check.setting import Setting
from benchmarks.shapes import Llama
from tspin.config.run import Run
from tspin.data.tokens import Renderer
from tspin.data.triplets import Key, Triplet
from tspin.objectives import ROLES, Objective, Role
from tspin.planning.memory import Memory, memory
from tspin.planning.shapes import Shape
from tspin.policy import dtypes
from tspin.policy.policy import Policy, checkpoint
from tspin.stages.score import score
from tspin.training.cut import Cut
from tspin.training.optimizer import trained
from tspin.training.parallel import Strategy
from tspin.training.recipe import Recipe
from tspin.training.step import Part, accumulate

GB = 1e9
SHARE = 0.95  # of the free memory that a plan may take


def random_model(setting: Setting, shape: Shape, *, dtype: torch.dtype) -> PreTrainedModel:
    """A Mistral of that shape, its window of 4096 tokens included. The same weights each time."""
    config = MistralConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        sliding_window=4096,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=shape.vocab - 1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # a 7B in float32 first would not fit everywhere
    try:
        with torch.device(setting.device):
            return MistralForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def renderer_of(shape: Shape) -> Renderer:
    return Renderer(Llama(**asdict(shape)).tokenizer(), "none")


def policy_of(
    setting: Setting, shape: Shape, run: Run, *, model: PreTrainedModel | None = None
) -> Policy:
    """A policy of random weights, or of `model`, that computes as `run` says."""
    how = dtypes.resolve(run.compute, run.optim.precision)
    if model is None:
        model = random_model(setting, shape, dtype=how.weights)
    if run.compute.gradient_checkpointing:
        checkpoint(model)
    policy = Policy(model, renderer_of(shape), how.device, how.autocast, run.compute.attention)
    _ = policy.packed  # as policy.load has it: sampling goes through the same attention
    return policy


def triplets(
    shape: Shape, count: int, lengths: Sequence[int], *, spread: float = 0.0, seed: int = 0
) -> list[Triplet]:
    """Triplets of random ids. Responses end with EOS.

    lengths  tokens of a prompt, of y, y' and y0
    spread   each is shorter by up to this share
    """
    random, eos = np.random.default_rng(seed), shape.vocab - 1

    def ids(length: int) -> list[int]:
        shorter = round(length * (1 - spread * random.random()))
        return random.integers(2, eos, max(shorter, 1)).tolist()

    result = []
    for number in range(count):
        prompt, *responses = (ids(length) for length in lengths)
        by_role: dict[Role, Sequence[int]]
        by_role = {r: [*i[:-1], eos] for r, i in zip(ROLES, responses, strict=True)}
        result.append(Triplet(str(number), "train", 1, prompt, by_role))
    return result


def recipe_of(run: Run, loss: Objective, reference: dict[Key, float] | None = None) -> Recipe:
    return Recipe(loss=loss, reference=reference, optim=run.optim, compute=run.compute, seed=0, t=1)


def reference_of(
    policy: Policy, batch: Sequence[Triplet], loss: Objective, cut: Cut
) -> dict[Key, float] | None:
    """log pi_theta_t of what the objective compares, over the micro-batches of training."""
    if not loss.reference_roles:
        return None
    batches = cut.micro_batches(batch, loss.roles)
    return score(policy, batches, loss.reference_roles, label="reference").logps


def gradient(
    policy: Policy, batch: Sequence[Triplet], recipe: Recipe, cut: Cut
) -> tuple[list[Part], list[Tensor]]:
    """-> losses and metrics, part by part; the gradient of the batch's mean loss, by weight"""
    policy.model.zero_grad()
    parts = accumulate(Strategy(policy), batch, recipe, cut)
    gradients = taken(policy)
    policy.model.zero_grad()
    return parts, gradients


def taken(policy: Policy) -> list[Tensor]:
    """The gradients that lie in the weights now; of sharded weights the whole ones."""
    gradients = []
    for _, parameter in trained(policy):
        value = parameter.grad
        if value is None:
            value = torch.zeros_like(parameter)
        gradients.append(whole(value).detach())
    return gradients


def whole(value: Tensor) -> Tensor:
    """A tensor, all of it where it lies in shards."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def cosine(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """The cosine between two gradients, all weights taken together; summed in float64."""
    sums = np.zeros(3)
    for x, y in zip(a, b, strict=True):
        x, y = x.double().flatten(), y.double().flatten()
        sums += [float(x @ y), float(x @ x), float(y @ y)]
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def mean_loss(parts: Sequence[Part]) -> float:
    return float(torch.cat([losses for losses, _ in parts]).double().mean())


def apart_per_token(
    a: dict[Key, float], b: dict[Key, float], batch: Sequence[Triplet], roles: Sequence[Role]
) -> float:
    """The largest difference of two scores of a response, in nats a token of it."""
    return max(
        abs(a[t.id, t.source, r] - b[t.id, t.source, r]) / len(t.responses[r])
        for t in batch
        for r in roles
    )


def timed(setting: Setting, work: Callable[[], object]) -> float:
    """Seconds until all of it is done, the device's part included."""
    started = _clock(setting)
    work()
    return _clock(setting) - started


def _clock(setting: Setting) -> float:
    if not setting.tiny:
        torch.cuda.synchronize()
    return time.perf_counter()


def begin_peak(setting: Setting) -> None:
    """The peak of memory is counted from here on."""
    if not setting.tiny:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(setting: Setting) -> int:
    """Bytes that torch has allocated at most since `begin_peak`; 0 on the CPU."""
    return 0 if setting.tiny else torch.cuda.max_memory_allocated()


def card_memory() -> int:
    """Bytes of the card that nobody holds."""
    free, _ = torch.cuda.mem_get_info()
    return int(free)


def fitting(
    setting: Setting, runs: Sequence[Run], taken: Callable[[Memory], float]
) -> tuple[Shape, Run, Memory]:
    """The most layers, and the first of the runs, whose plan the card has room for.

    taken  bytes of a plan that have to fit. Raises Skip where four layers do not
    """
    free = float("inf") if setting.tiny else SHARE * card_memory()
    for layers in (32, 24, 16, 8, 4):
        for run in runs:
            shape = setting.mistral(layers)
            plan = memory(shape, run, device="cpu" if setting.tiny else "cuda")
            if taken(plan) < free:
                return shape, run, plan
    raise Skip(f"four layers are planned to take {taken(plan) / GB:.0f} GB")
