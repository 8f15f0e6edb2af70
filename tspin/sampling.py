"""One batch of responses from a policy: greedy, or drawn with numbers that belong to the prompts.

The random numbers of a response are a function of (seed, iteration, prompt id) alone, so that a
sample depends neither on the rows beside it nor on restarts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tspin.config import DecodingConfig
from tspin.model import Policy
from tspin.seeds import seed_for


class SampleByNumber(LogitsProcessor):
    """Leaves one token per row: the one that the row's next uniform number picks.

    Inverse-CDF sampling: token k with P(< k) <= u < P(<= k). One number per row and step makes a
    sample independent of the rows beside it, which a shared generator cannot.

    uniforms  (batch, max_new_tokens) in [0, 1), float64
    """

    def __init__(self, uniforms: Tensor, prompt_length: int) -> None:
        self.uniforms = uniforms
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt_length
        cumulative = scores.double().softmax(-1).cumsum(-1)
        total = cumulative[:, -1:]
        # u * total may round up to total, behind the last token that has any mass.
        below = torch.nextafter(total, torch.zeros_like(total))
        target = torch.minimum(self.uniforms[:, step, None] * total, below)
        token = torch.searchsorted(cumulative, target, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def batches(prompts: Mapping[str, Sequence[int]], size: int) -> list[list[str]]:
    """The ids of the prompts (id -> prompt ids) in batches, which depend on nothing else.

    Longest first: the largest batch comes first, and rows of a batch are alike.
    """
    order = sorted(prompts, key=lambda i: (-len(prompts[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def uniforms(seed: int, t: int, ids: Sequence[str], length: int, *, draw: int = 0) -> Tensor:
    """The random numbers of each prompt's response at iteration t. -> (len(ids), length)

    draw  further ones for further responses; the first is the one that is trained on
    """
    more = () if draw == 0 else (draw,)
    names = [(seed, "generate", t, i, *more) for i in ids]
    rows = [np.random.default_rng(seed_for(*name)).random(length) for name in names]
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def respond(
    policy: Policy, prompts: Sequence[Sequence[int]], numbers: Tensor | None, how: DecodingConfig
) -> list[list[int]]:
    """Response ids of one batch of prompts, up to and including EOS; greedy without `numbers`."""
    pad_id = policy.renderer.pad_id
    input_ids, attention_mask = _pad_left(prompts, pad_id=pad_id)
    length = input_ids.shape[1]
    choose = LogitsProcessorList()
    if numbers is not None:
        choose.append(TemperatureLogitsWarper(how.temperature))
        if how.top_k is not None:
            choose.append(TopKLogitsWarper(how.top_k))
        if how.top_p is not None:
            choose.append(TopPLogitsWarper(how.top_p))
        if how.min_p is not None:
            choose.append(MinPLogitsWarper(how.min_p))
        choose.append(SampleByNumber(numbers.to(policy.device), length))
    with policy.arithmetic():
        output = policy.model.generate(
            input_ids.to(policy.device),
            attention_mask=attention_mask.to(policy.device),
            logits_processor=choose,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=how.max_new_tokens,
                eos_token_id=policy.renderer.stop_ids,
                pad_token_id=pad_id,
            ),
        )
    stop = set(policy.renderer.stop_ids)
    return [_until(row, stop) for row in output[:, length:].tolist()]


def response_row(policy: Policy, prompt_id: str, response_ids: list[int]) -> dict[str, Any]:
    """A sampled response as a row of artifacts.RESPONSES."""
    return {
        "id": prompt_id,
        "response": policy.renderer.text(response_ids),
        "response_ids": response_ids,
        "num_tokens": len(response_ids),
        "finish_reason": "stop" if response_ids[-1] in policy.renderer.stop_ids else "length",
    }


def _until(ids: list[int], stop: set[int]) -> list[int]:
    """Ids up to and including the first stop id."""
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids) - 1)
    return ids[: end + 1]


def _pad_left(prompts: Sequence[Sequence[int]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask, each (batch, longest)."""
    length = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    attention_mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        input_ids[i, length - len(prompt) :] = torch.tensor(list(prompt))
        attention_mask[i, length - len(prompt) :] = 1
    return input_ids, attention_mask
