"""Responses of a policy to many prompts: batched decoding that keeps its batch full.

Every row lives in a slot of one preallocated cache of keys and values, from its column 0 on. A row
that ends frees its slot at once and a waiting prompt takes it. The forward pass is the model's own
(transformers' cache interface); which token follows is the caller's to choose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from tspin.config.run import DecodingConfig
from tspin.logprobs import attention
from tspin.policy import finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFILL = 4  # prompts wait until one slot in REFILL is free: reading them is a pass of its own
# Tokens of prompts at most in a pass that reads them, by device. CUDA is busy from far fewer on; on
# the CPU any number of waiting prompts may be read together.
PROMPT_TOKENS: dict[str, int | None] = {"cpu": None, "cuda": 2**14}
# Tokens that cost as much as one more pass does by reading all weights: for fewer, prompts are
# padded to one length. Measured on a CPU (SmolLM2, float32); assumed for CUDA.
PASS_TOKENS = {"cpu": 32, "cuda": 2**10}
# implementations that build a mask for rows of different lengths
ATTENTION = ("sdpa", "eager", attention.NAME)

# (logits (batch, vocab), number of each row's prompt, step of each row) -> tokens (batch,), and
# NO_TOKEN in a row whose logits are not finite
NO_TOKEN = -1
Choose = Callable[[Tensor, list[int], list[int]], Tensor]


@dataclass(frozen=True)
class Cut:
    """How much goes through the model at a time. It decides memory and time, no sample.

    slots   rows at most in one forward pass
    tokens  of prompts, their padding counted, at most in one pass that reads them; a longer prompt
            is read alone. None: any number
    """

    slots: int
    tokens: int | None = None

    @classmethod
    def of(cls, how: DecodingConfig, device: torch.device) -> Cut:
        return cls(how.batch_size, PROMPT_TOKENS.get(device.type))

    def halved(self, rows: int) -> Cut | None:
        """Half of both, where `rows` are to be decoded; None where they go one by one already."""
        slots = min(self.slots, rows)
        if slots <= 1:
            return None
        return Cut(slots // 2, None if self.tokens is None else self.tokens // 2)

    def __str__(self) -> str:
        return f"decoding.batch_size={self.slots}"


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
    cut: Cut,
    responses: list[list[int]] | None = None,
    done: Callable[[int], object] = lambda count: None,
) -> list[list[int]]:
    """The response to each prompt, up to and including the first id of `stop`.

    Equal prompts are read once. Which rows are computed together is a function of the prompts that
    have no response yet, of the tokens chosen and of `cut`, and of nothing else.

    responses  those that there are, empty where there is none; filled in place
    done       called with the number of responses that have ended since the last call
    """
    if responses is None:
        responses = [[] for _ in prompts]
    left = [number for number, response in enumerate(responses) if not response]
    longest = max((len(prompts[number]) for number in left), default=0)
    slots = min(cut.slots, len(left))
    table = _Table(model, slots=slots, columns=longest + max_new_tokens - 1)
    waiting = _groups(prompts, left, slots)
    rows: list[_Row] = []  # row i lives in slot i
    while waiting or rows:
        free = slots - len(rows)
        if waiting and free * REFILL >= slots:
            groups = _taken(waiting, free)
            _read(table, groups, prompts, start=len(rows), tokens=cut.tokens)
            rows += [
                _Row(number, len(prompts[number]) - 1, prompts[number][-1])
                for group in groups
                for number in group
            ]
        logits = table.step([row.token for row in rows], [row.length for row in rows])
        chosen = choose(logits, [row.prompt for row in rows], [len(row.response) for row in rows])
        tokens = chosen.tolist()  # the device is waited for here, once a step
        if NO_TOKEN in tokens:
            bad = tokens.index(NO_TOKEN)
            refuse(logits[bad], prompt=rows[bad].prompt, step=len(rows[bad].response))
        for row, token in zip(rows, tokens, strict=True):
            row.response.append(token)
            row.token, row.length = token, row.length + 1
        ended = [len(row.response) == max_new_tokens or row.token in stop for row in rows]
        for row, over in zip(rows, ended, strict=True):
            if over:
                responses[row.prompt] = row.response
        done(sum(ended))
        rows = _compact(table, rows, ended)
    return responses


def refuse(logits: Tensor, *, prompt: int, step: int) -> NoReturn:
    """Raises NotFinite for the logits (vocab,) of a row without a token to choose."""
    where = f"at token {step} of the response to prompt {prompt} of its part"
    finite.check(logits.max(), f"{where}, the logits that it samples from")
    raise AssertionError("the highest logit of a row without a token is not finite")


def _groups(
    prompts: Sequence[Sequence[int]], numbers: Sequence[int], slots: int
) -> list[list[int]]:
    """Numbers of equal prompts, in groups that fit into the slots; the longest prompts LAST.

    Longest first out: the largest pass comes first, and rows beside each other are alike.
    """
    equal: dict[tuple[int, ...], list[int]] = {}
    for number in numbers:
        equal.setdefault(tuple(prompts[number]), []).append(number)
    groups = [
        numbers[i : i + slots] for numbers in equal.values() for i in range(0, len(numbers), slots)
    ]
    return sorted(groups, key=lambda group: (len(prompts[group[0]]), -group[0]))


def _taken(waiting: list[list[int]], free: int) -> list[list[int]]:
    """Takes as many whole groups as `free` slots hold, the longest prompts first."""
    groups: list[list[int]] = []
    while waiting and len(waiting[-1]) <= free:
        groups.append(waiting.pop())
        free -= len(groups[-1])
    return groups


def _read(
    table: _Table,
    groups: list[list[int]],
    prompts: Sequence[Sequence[int]],
    *,
    start: int,
    tokens: int | None,
) -> None:
    """Reads a prompt of each group into the slots from `start` on, `tokens` at most at a time.

    A prompt's last token is left for the next step, which all rows make together: so there is one
    place where a token is chosen, and a prompt of one token needs no reading.
    """
    widths = [len(prompts[group[0]]) - 1 for group in groups]
    cost = PASS_TOKENS.get(table.model.device.type, PASS_TOKENS["cuda"])
    for count in _parts(widths, limit=tokens, cost=cost):
        part, groups = groups[:count], groups[count:]
        owner = [i for i, group in enumerate(part) for _ in group]
        table.read([prompts[group[0]][:-1] for group in part], owner, start=start)
        start += len(owner)


def _parts(widths: Sequence[int], *, limit: int | None, cost: int) -> list[int]:
    """How many prompts each pass reads, so that padding and passes cost least together.

    widths  of the prompts, the longest first: a pass is as wide as its first
    limit   tokens at most in a pass, but for one prompt alone
    cost    of a pass, in tokens
    """
    least, sizes = [0.0], [0]  # of the first prompts: the least cost, and the last pass of that
    for end in range(1, len(widths) + 1):
        costs = {
            end - first: least[first] + cost + widths[first] * (end - first)
            for first in range(end)
            if first == end - 1 or limit is None or widths[first] * (end - first) <= limit
        }
        sizes.append(min(costs, key=lambda size: costs[size]))
        least.append(costs[sizes[-1]])
    parts, end = [], len(widths)
    while end > 0:
        parts.append(sizes[end])
        end -= sizes[end]
    return parts[::-1]


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


def _to(device: torch.device, values: Sequence[Any]) -> Tensor:
    """Whole numbers on the device, which is not waited for."""
    return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)


class _Table:
    """The cache of a model, one row a slot, and the passes that write to it.

    Under autocast, attention is computed in autocast's dtype, and so is what is kept for it.
    """

    def __init__(self, model: PreTrainedModel, *, slots: int, columns: int) -> None:
        self.model = model
        kind = model.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        num_layers = len(DynamicCache(config=model.config).layers)
        self.layers = [_Layer(slots, columns, dtype) for _ in range(num_layers)]
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
        of = _to(self.model.device, owner)
        for layer in self.layers:
            layer.expect_prompts(of, start)
        self.model.base_model(
            input_ids=_to(self.model.device, ids),
            past_key_values=self.cache,
            use_cache=True,
        )

    def step(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Appends one token to each of the first rows. -> logits of what follows (rows, vocab)"""
        at = _to(self.model.device, lengths)
        width = max(lengths) + 1
        for layer in self.layers:
            layer.expect_tokens(at, width)
        output = self.model(
            input_ids=_to(self.model.device, tokens)[:, None],
            attention_mask=self.columns[:width] <= at[:, None],
            position_ids=at[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def move(self, sources: list[int], targets: list[int], width: int) -> None:
        """Copies the first `width` columns of slots to other slots."""
        where = _to(self.model.device, [sources, targets])
        for layer in self.layers:
            layer.move(where[0], where[1], width)


class _Layer(CacheLayerMixin):
    """Keys and values of one layer of the model, each (slots, heads, columns, head size).

    A row's columns behind its length hold what was there before: finite, and masked.

    dtype  in which they are kept; None: that in which the model makes them
    """

    def __init__(self, slots: int, columns: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.slots, self.columns, self.kept_in = slots, columns, dtype
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
        if self.kept_in is not None:
            key_states, value_states = key_states.to(self.kept_in), value_states.to(self.kept_in)
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
