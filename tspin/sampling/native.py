"""Responses of a policy: greedy, or drawn with numbers that belong to the prompts.

The random numbers of a response are a function of (seed, iteration, prompt id, draw) alone, so
that a sample depends neither on the rows beside it nor on restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tspin.config.run import DecodingConfig
from tspin.data.tokens import Renderer
from tspin.policy.out_of_memory import until_it_fits
from tspin.policy.policy import Policy
from tspin.sampling import decode
from tspin.sampling.decode import Cut
from tspin.sampling.requests import Batches, Done, Request
from tspin.tools.log import once


@dataclass
class Native:
    """The policy in this process as a requests.Engine.

    cut  what fits into memory, once a batch has been sampled
    """

    policy: Policy
    cut: Cut | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    central = False  # every process has its own

    @property
    def renderer(self) -> Renderer:
        return self.policy.renderer

    def respond(
        self, batches: Batches, how: DecodingConfig, *, done: Done
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """One batch after the other."""
        for key, requests in batches:
            cut = self.cut or Cut.of(how, self.policy.device)
            responses, self.cut = _respond(self.policy, requests, how, cut, done)
            yield key, responses


def uniforms(seed: int, length: int) -> Tensor:
    """Random numbers of a response, one per token. seed: sample_seed -> (length,) float64"""
    return torch.from_numpy(np.random.default_rng(seed).random(length))


def pick(scores: Tensor, numbers: Tensor) -> Tensor:
    """The token whose interval of the cumulative softmax holds the row's number. -> (batch,)

    Inverse-CDF sampling: token k with P(< k) <= u < P(<= k). One number per row and step makes a
    sample independent of the rows beside it, which a shared generator cannot.

    scores   (batch, vocab) logits
    numbers  (batch,) u in [0, 1), float64
    """
    cumulative = scores.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    # u * total may round up to total, behind the last token that has any mass.
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(numbers[:, None] * total, below)
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def respond(
    policy: Policy,
    requests: Sequence[Request],
    how: DecodingConfig,
    *,
    done: Done = lambda count: None,
    token: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """Response ids of each request, up to and including EOS; equal prompts are read once.

    token  called with each token of the response, as it is chosen; for a single request
    """
    assert token is None or len(requests) == 1
    return _respond(policy, requests, how, Cut.of(how, policy.device), done, token)[0]


def _respond(
    policy: Policy,
    requests: Sequence[Request],
    how: DecodingConfig,
    cut: Cut,
    done: Done,
    token: Callable[[int], object] | None = None,
) -> tuple[list[list[int]], Cut]:
    """-> responses; the cut that fits into memory: `cut`, or smaller

    What has ended when memory runs out is kept. The rest begins anew, with the same numbers.
    """
    if not requests:
        return [], cut
    choose: decode.Choose = _Choice(requests, how, policy.device)
    if token is not None:
        choose = partial(_and_say, choose, token)
    longest = max(len(request.prompt) for request in requests) + how.max_new_tokens
    refusal = decode.refusal(policy.model, longest) if how.engine == "native" else None
    if refusal is not None:
        name = type(policy.model).__name__
        once(f"{name}: sampling with transformers' generate, for {refusal}")
    responses: list[list[int]] = [[] for _ in requests]

    def sample(cut: Cut) -> None:
        with policy.to_sample(len(requests), how.max_new_tokens):
            if how.engine == "transformers" or refusal is not None:
                left = [i for i, response in enumerate(responses) if not response]
                for rows in _batches(requests, left, cut.slots):
                    answers = _by_transformers(policy, requests, rows, choose, how)
                    for i, answer in zip(rows, answers, strict=True):
                        responses[i] = answer
                    done(len(rows))
                return
            decode.decode(
                policy.model,
                [request.prompt for request in requests],
                choose,
                max_new_tokens=how.max_new_tokens,
                stop=policy.renderer.stop_ids,
                cut=cut,
                responses=responses,
                done=done,
            )

    _, cut = until_it_fits(
        sample,
        cut,
        lambda cut: cut.halved(responses.count([])),
        where="sampling",
        same="the samples are the same",
    )
    return responses, cut


class _Choice:
    """The next token of each row: a decode.Choose."""

    def __init__(
        self, requests: Sequence[Request], how: DecodingConfig, device: torch.device
    ) -> None:
        none = torch.zeros(how.max_new_tokens, dtype=torch.double)
        numbers = [none if q.seed is None else uniforms(q.seed, len(none)) for q in requests]
        self.numbers = torch.stack(numbers).to(device)
        self.greedy = torch.tensor([q.seed is None for q in requests], device=device)
        self.all_greedy = all(q.seed is None for q in requests)
        self.temperature = torch.tensor(
            [[q.temperature] for q in requests], dtype=torch.double, device=device
        )
        self.filters = LogitsProcessorList()
        if how.top_k is not None:
            self.filters.append(TopKLogitsWarper(how.top_k))
        if how.top_p is not None:
            self.filters.append(TopPLogitsWarper(how.top_p))
        if how.min_p is not None:
            self.filters.append(MinPLogitsWarper(how.min_p))

    def __call__(self, logits: Tensor, rows: list[int], steps: list[int]) -> Tensor:
        scores = logits if logits.dtype == torch.double else logits.float()
        likeliest = scores.argmax(-1)  # NaN where there is any
        # A token that is read anyway says what is not finite: to look here would be to wait here.
        good = scores.gather(-1, likeliest[:, None])[:, 0].isfinite()
        if self.all_greedy:
            return likeliest.where(good, decode.NO_TOKEN)
        row, step = torch.tensor([rows, steps]).to(scores.device, non_blocking=True)
        warm = scores / self.temperature[row].to(scores.dtype)
        filtered = self.filters(row[:, None], warm)  # they read the scores alone
        drawn = pick(filtered, self.numbers[row, step])
        return torch.where(self.greedy[row], likeliest, drawn).where(good, decode.NO_TOKEN)


def _and_say(
    choose: decode.Choose,
    say: Callable[[int], object],
    logits: Tensor,
    rows: list[int],
    steps: list[int],
) -> Tensor:
    """The tokens that `choose` takes, the first of them said too: a decode.Choose when bound."""
    tokens = choose(logits, rows, steps)
    first = int(tokens[0])
    if first != decode.NO_TOKEN:
        say(first)
    return tokens


class _OneToken(LogitsProcessor):
    """Leaves the chosen token of each row: how transformers' greedy search is told."""

    def __init__(self, choose: decode.Choose, rows: list[int], prompt_length: int) -> None:
        self.choose, self.rows, self.prompt_length = choose, rows, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt_length
        token = self.choose(scores, self.rows, [step] * len(self.rows))
        tokens = token.tolist()
        if decode.NO_TOKEN in tokens:
            bad = tokens.index(decode.NO_TOKEN)
            decode.refuse(scores[bad], prompt=self.rows[bad], step=step)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


def _batches(requests: Sequence[Request], numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """The requests with these numbers in batches, the longest prompts first."""
    order = sorted(numbers, key=lambda i: -len(requests[i].prompt))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _by_transformers(
    policy: Policy,
    requests: Sequence[Request],
    rows: list[int],
    choose: decode.Choose,
    how: DecodingConfig,
) -> list[list[int]]:
    """The responses to the requests with the numbers `rows`, all until the last has ended."""
    pad_id, stop = policy.renderer.pad_id, policy.renderer.stop_ids
    input_ids, attention_mask = _pad_left([requests[i].prompt for i in rows], pad_id=pad_id)
    length = input_ids.shape[1]
    output = policy.model.generate(
        input_ids.to(policy.device),
        attention_mask=attention_mask.to(policy.device),
        logits_processor=LogitsProcessorList([_OneToken(choose, rows, length)]),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=how.max_new_tokens,
            eos_token_id=stop,
            pad_token_id=pad_id,
        ),
    )
    return [_until(row, set(stop)) for row in output[:, length:].tolist()]


def _until(ids: list[int], stop: set[int]) -> list[int]:
    """Ids up to and including the first stop id."""
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids) - 1)
    return ids[: end + 1]


def _pad_left(prompts: Sequence[Sequence[int]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask, each (batch, longest)."""
    rows = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    return pad(rows, padding_value=pad_id), pad([torch.ones_like(row) for row in rows])
