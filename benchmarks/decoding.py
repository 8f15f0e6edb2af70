"""The ways to sample: ours, transformers' generate, and the products that none can do without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from benchmarks.common import Spent
from benchmarks.shapes import SAMPLED, Case, ends
from benchmarks.work import Work, batches, policy_of, settings, timed
from tspin.config.run import Run
from tspin.data.triplets import Triplet
from tspin.policy import products
from tspin.policy.policy import Policy
from tspin.sampling import native
from tspin.sampling.requests import Request


def sample(case: Case, run: Run, policy: Policy, triplets: Sequence[Triplet]) -> list[list[int]]:
    """Ours. A number near 1 draws the last id, EOS; below, near-uniform weights never do."""
    numbers = 0.9 * torch.rand(len(triplets), SAMPLED, dtype=torch.double)
    for row, end in zip(numbers, ends(triplets), strict=True):
        row[end - 1] = 1 - 1e-12
    requests = [Request(t.prompt_ids, number, 1.0) for number, t in enumerate(triplets)]
    with patch.object(native, "uniforms", lambda seed, length: numbers[seed]):
        return native.respond(policy, requests, run.decoding)


def generation(case: Case) -> Work:
    run = settings(case, "auto", f"decoding.max_new_tokens={SAMPLED}", "model.max_length=4096")
    policy = policy_of(case, run)
    return checked(case, partial(sample, case, run, policy))


def checked(case: Case, respond: Callable[[list[Triplet]], list[list[int]]]) -> Work:
    """Sampling, and that every response is as long as it has to be."""

    def work(triplets: list[Triplet]) -> Spent:
        responses: list[list[int]] = []
        spent = timed(case, lambda: responses.extend(respond(triplets)))
        assert list(map(len, responses)) == ends(triplets)
        return spent

    return work


class _EndAt(LogitsProcessor):
    """EOS as a row's given token, and not before."""

    def __init__(self, ends: Tensor, prompt_length: int, eos: int) -> None:
        self.ends, self.before, self.eos = ends, prompt_length, eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        now = input_ids.shape[1] - self.before + 1 >= self.ends
        scores[:, self.eos] = torch.where(now, 1e4, -torch.inf)
        return scores


def generated(case: Case, model: Any, triplets: Sequence[Triplet], cache: str) -> list[list[int]]:
    """transformers' generate, padded on the left, batch by batch in the order of the data."""
    eos, responses = case.model_shape.vocab - 1, []
    for batch in batches(case, triplets) if case.kind == "generation" else [triplets]:
        width = max(len(t.prompt_ids) for t in batch)
        rows = [[0] * (width - len(t.prompt_ids)) + list(t.prompt_ids) for t in batch]
        ids = torch.tensor(rows, device=case.device)
        until = torch.tensor(ends(batch), device=case.device)
        with torch.autocast(case.device, torch.bfloat16, enabled=case.device == "cuda"):
            output = model.generate(
                ids,
                attention_mask=(ids != 0).long(),
                logits_processor=LogitsProcessorList([_EndAt(until, width, eos)]),
                generation_config=GenerationConfig(
                    do_sample=True, top_k=0, max_new_tokens=SAMPLED, eos_token_id=eos,
                    pad_token_id=0, cache_implementation=cache,
                ),
            )  # fmt: skip
        rows = output[:, width:].tolist()
        responses += [row[:end] for row, end in zip(rows, ends(batch), strict=True)]
    return responses


def generate(case: Case, *, cache: str) -> Work:
    model = case.model_shape.model(case.device)
    return checked(case, lambda triplets: generated(case, model, triplets, cache))


def products_alone(case: Case) -> Work:
    """The matrix products of the same tokens, by weights that are packed as ours are."""
    model = case.model_shape.model(case.device)
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if type(module) is nn.Linear]

    def multiply(triplets: list[Triplet]) -> None:
        last = ends(triplets)
        alive = [sum(end > step for end in last) for step in range(max(last))]
        prompts = sum(len(triplet.prompt_ids) - 1 for triplet in triplets)
        x = {n: torch.randn(max(prompts, *alive), n) for n in {it.in_features for it in layers}}
        for layer in layers:
            if layer is not head:
                layer(x[layer.in_features][:prompts])
        for rows in alive:
            for layer in layers:
                layer(x[layer.in_features][:rows])

    @torch.no_grad()
    def work(triplets: list[Triplet]) -> Spent:
        with products.packed(model, torch.float32):
            return timed(case, lambda: multiply(triplets))

    return work
