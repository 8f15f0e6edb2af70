"""Responses of a policy to many prompts: batched decoding that keeps its batch full.

Every row lives in a slot of one preallocated cache of keys and values, from its column 0 on. A row
that ends frees its slot at once and a waiting prompt takes it. The forward pass is the model's own
(transformers' cache interface); which token follows is the caller's to choose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from tspin.logprobs import attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFILL = 4  # prompts wait until one slot in REFILL is free: reading them is a pass of its own
# implementations that build a mask for rows of different lengths
ATTENTION = ("sdpa", "eager", attention.NAME)

# (logits (batch, vocab), number of each row's prompt, step of each row) -> tokens (batch,)
Choose = Callable[[Tensor, list[int], list[int]], Tensor]


@dataclass
class _Row:
    """A response in the making.

    prompt  number of its prompt
    length  tokens whose keys and values are in the cache
    token   the one after these: the next to be read
    """

    prompt: int
    length: int
    token: int
    response: list[int] = field(default_factory=list)


def refusal(model: PreTrainedModel, length: int) -> str | None:
    """Why rows of up to `length` tokens cannot be decoded here with this model; None: they can.

    An attention window that is as long as a row hides nothing of it; the mask of a shorter one is
    built for rows that all end in the same column.
    """
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if model.config._attn_implementation not in ATTENTION:
        return f"its attention is {model.config._attn_implementation}, not {' or '.join(ATTENTION)}"
    for needed in ("past_key_values", "position_ids"):
        if needed not in inspect.signature(model.forward).parameters:
            return f"its forward takes no {needed}"
    for layer in DynamicCache(config=model.config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            if layer.sliding_window < length:
                return f"its attention window of {layer.sliding_window} is shorter than some rows"
        elif type(layer) is not DynamicLayer:
            return f"its cache has layers of the kind {type(layer).__name__}"
    return None


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    choose: Choose,
    *,
    max_new_tokens: int,
    stop: Collection[int],
    slots: int,
    done: Callable[[int], object] = lambda count: None,
) -> list[list[int]]:
    """The response to each prompt, up to and including the first id of `stop`.

    Equal prompts are read once. Which rows are computed together is a function of the prompts, of
    the tokens chosen and of `slots`, and of nothing else.

    slots  rows at most in one forward pass
    done   called with the number of responses that have ended since the last call
    """
    longest = max(map(len, prompts), default=0)
    slots = min(slots, len(prompts))
    table = _Table(model, slots=slots, columns=longest + max_new_tokens - 1)
    responses: list[list[int]] = [[] for _ in prompts]
    waiting = _groups(prompts, slots)
    rows: list[_Row] = []  # row i lives in slot i
    while waiting or rows:
        free = slots - len(rows)
        if waiting and free * REFILL >= slots:
            rows += _admit(table, waiting, prompts, start=len(rows), free=free)
        logits = table.step([row.token for row in rows], [row.length for row in rows])
        chosen = choose(logits, [row.prompt for row in rows], [len(row.response) for row in rows])
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.response.append(token)
            row.token, row.length = token, row.length + 1
        ended = [len(row.response) == max_new_tokens or row.token in stop for row in rows]
        for row, over in zip(rows, ended, strict=True):
            if over:
                responses[row.prompt] = row.response
        done(sum(ended))
        rows = _compact(table, rows, ended)
    return responses


def _groups(prompts: Sequence[Sequence[int]], slots: int) -> list[list[int]]:
    """Numbers of equal prompts, in groups that fit into the slots; the longest prompts LAST.

    Longest first out: the largest pass comes first, and rows beside each other are alike.
    """
    equal: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        equal.setdefault(tuple(prompt), []).append(number)
    groups = [
        numbers[i : i + slots] for numbers in equal.values() for i in range(0, len(numbers), slots)
    ]
    return sorted(groups, key=lambda group: (len(prompts[group[0]]), -group[0]))


def _admit(
    table: _Table,
    waiting: list[list[int]],
    prompts: Sequence[Sequence[int]],
    *,
    start: int,
    free: int,
) -> list[_Row]:
    """Takes as many whole groups as `free` slots hold and reads their prompts.

    A prompt's last token is left for the next step, which all rows make together: so there is one
    place where a token is chosen, and a prompt of one token needs no reading.
    """
    taken: list[list[int]] = []
    while waiting and len(waiting[-1]) <= free:
        taken.append(waiting.pop())
        free -= len(taken[-1])
    numbers = [number for group in taken for number in group]
    owner = [i for i, group in enumerate(taken) for _ in group]
    table.read([prompts[group[0]][:-1] for group in taken], owner, start=start)
    return [_Row(n, len(prompts[n]) - 1, prompts[n][-1]) for n in numbers]


def _compact(table: _Table, rows: list[_Row], ended: list[bool]) -> list[_Row]:
    """The rows that go on, in the first slots: the last of them move into the holes."""
    left = len(rows) - sum(ended)
    holes = [i for i in range(left) if ended[i]]
    movers = [i for i in range(left, len(rows)) if not ended[i]]
    if movers:
        table.move(movers, holes, max(rows[i].length for i in movers))
    rows = rows.copy()
    for hole, mover in zip(holes, movers, strict=True):
        rows[hole] = rows[mover]
    return rows[:left]


class _Table:
    """The cache of a model, one row a slot, and the passes that write to it."""

    def __init__(self, model: PreTrainedModel, *, slots: int, columns: int) -> None:
        self.model = model
        num_layers = len(DynamicCache(config=model.config).layers)
        self.layers = [_Layer(slots, columns) for _ in range(num_layers)]
        self.cache = Cache(layers=list(self.layers))
        self.columns = torch.arange(columns, device=model.device)

    def read(self, prompts: list[Sequence[int]], owner: list[int], *, start: int) -> None:
        """Fills the slots start, start + 1, ...: slot start + i with the prompt owner[i].

        Padding stands behind a prompt, where causal attention never looks from inside it.
        """
        width = max(map(len, prompts), default=0)
        if width == 0:
            return
        ids = [[*prompt, *[0] * (width - len(prompt))] for prompt in prompts]
        of = torch.tensor(owner, device=self.model.device)
        for layer in self.layers:
            layer.expect_prompts(of, start)
        self.model.base_model(
            input_ids=torch.tensor(ids, device=self.model.device),
            past_key_values=self.cache,
            use_cache=True,
        )

    def step(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Appends one token to each of the first rows. -> logits of what follows (rows, vocab)"""
        at = torch.tensor(lengths, device=self.model.device)
        width = max(lengths) + 1
        for layer in self.layers:
            layer.expect_tokens(at, width)
        output = self.model(
            input_ids=torch.tensor(tokens, device=self.model.device)[:, None],
            attention_mask=self.columns[:width] <= at[:, None],
            position_ids=at[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def move(self, sources: list[int], targets: list[int], width: int) -> None:
        """Copies the first `width` columns of slots to other slots."""
        where = torch.tensor([sources, targets], device=self.model.device)
        for layer in self.layers:
            layer.move(where[0], where[1], width)


class _Layer(CacheLayerMixin):
    """Keys and values of one layer of the model, each (slots, heads, columns, head size).

    A row's columns behind its length hold what was there before: finite, and masked.
    """

    def __init__(self, slots: int, columns: int) -> None:
        super().__init__()
        self.slots, self.columns = slots, columns
        self._of = self._at = torch.empty(0, dtype=torch.long)
        self._start = self._width = 0

    def expect_prompts(self, of: Tensor, start: int) -> None:
        self._of, self._start, self._width = of, start, 0

    def expect_tokens(self, at: Tensor, width: int) -> None:
        """The next update brings one token for each of the first rows, for its column `at`."""
        self._at, self._width = at, width

    def move(self, sources: Tensor, targets: Tensor, width: int) -> None:
        for states in (self.keys, self.values):
            states[targets, :, :width] = states[sources, :, :width]

    # --- what a model asks of a layer of its cache ----------------------------------------

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Not empty: a mask multiplies what is behind a row by 0, and 0 x NaN is NaN.
        self.keys, self.values = (
            new.new_zeros(self.slots, new.shape[1], self.columns, new.shape[3])
            for new in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Stores the new states. -> the states to attend to"""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        news = (key_states, value_states)
        if self._width == 0:
            end = self._start + len(self._of)
            for states, new in zip((self.keys, self.values), news, strict=True):
                states[self._start : end, :, : new.shape[2]] = new[self._of]
            return news
        batch = len(self._at)
        row = torch.arange(batch, device=self._at.device)
        for states, new in zip((self.keys, self.values), news, strict=True):
            states[row, :, self._at] = new[:, :, 0]
        return self.keys[:batch, :, : self._width], self.values[:batch, :, : self._width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns that `update` returns, the first of them)"""
        return self._width or query_length, 0

    def get_seq_length(self) -> int:
        """Columns before the new ones, for the longest row."""
        return max(self._width - 1, 0)

    def get_max_length(self) -> int:
        return self.columns
