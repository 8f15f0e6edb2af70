"""Triplets as one stream of ids without padding, and which of its positions attend to which.

Shared: [x, y, y', y0] per triplet; each response's positions go on where x ended, its queries see
the keys of x and its own. Separate: [x, y], [x, y'], [x, y0], each on its own. A response's last id
predicts nothing that is read and is left out. Everything but attention runs on the flat stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tspin.data.triplets import Triplet
from tspin.objectives import Role

Layout = Literal["shared", "separate"]

# What a pair (query, key) costs, times the hidden size h, where a token's matrix products in one
# layer cost 1; all pairs of a row count, seen or not. benchmarks/layouts.py fits both to the times
# of whole layers: 0.14 to 0.15 and 0.17 to 0.19 at h = 256 and 512, on one CPU core (14 h of the
# 72 h^2 operations of a Llama would be 0.19; causal attention leaves some out, a mask does not).
CAUSAL = 0.15  # in rows without a prefix
PREFIXED = 0.18
BLOCK_PAIRS = 4096  # as much as one more call of attention


@dataclass(frozen=True)
class Row:
    """A run of the stream whose queries see, causally, a run before it and themselves.

    Example: Row(7, 3, 0, 5): positions 7, 8, 9 follow the prompt at 0..4.
    """

    start: int
    length: int
    prefix_start: int
    prefix: int

    @property
    def num_keys(self) -> int:
        return self.prefix + self.length

    @property
    def pairs(self) -> int:
        return self.length * self.num_keys


@dataclass(frozen=True)
class Block:
    """Rows of like length as one padded attention call.

    queries   (rows, num_queries) positions of the stream; what pads them is computed, never read
    keys      (rows, num_keys) positions of the stream, prefix first
    prefixes  (rows,) how many of a row's keys come before its first query
    lengths   (rows,) how many of its keys are its own; the others pad
    """

    queries: Tensor
    keys: Tensor
    prefixes: Tensor
    lengths: Tensor
    causal: bool  # no row has a prefix: query i sees keys 0..i

    def mask(self, window: int | None) -> Tensor | None:
        """(rows, 1, num_queries, num_keys), True where a query may see a key; None where causal.

        window  a query sees this many of the latest keys, itself among them; None: all
        """
        num_queries, num_keys = self.queries.shape[1], self.keys.shape[1]
        if window is not None and window >= num_keys:
            window = None
        if self.causal and window is None:
            return None
        device = self.queries.device
        places = self.prefixes[:, None] + torch.arange(num_queries, device=device)
        # A query that pads must see something, or its softmax is not a number.
        places = places.minimum(self.lengths[:, None] - 1)[:, :, None]
        keys = torch.arange(num_keys, device=device)
        visible = keys <= places
        if window is not None:
            visible &= keys > places - window
        return visible[:, None]


@dataclass(frozen=True)
class Stream:
    """A micro-batch without padding. The responses are in the order of triplets, then roles.

    input_ids, position_ids  (1, num_tokens)
    rows        every position of the stream is in exactly one, in the stream's order
    predictors  (num_targets,) the positions whose hidden states predict `targets`
    targets     (num_targets,) all response ids, EOS included
    lengths     tokens of each response
    """

    input_ids: Tensor
    position_ids: Tensor
    rows: tuple[Row, ...]
    predictors: Tensor
    targets: Tensor
    lengths: tuple[int, ...]


def pack(
    triplets: Sequence[Triplet], roles: Sequence[Role], layout: Layout, *, device: torch.device
) -> Stream:
    """The stream of a micro-batch. Raises ValueError for a prompt without tokens."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[Row] = []
    predictors: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []

    def run(tokens: Sequence[int], *, position: int, prefix_start: int = 0) -> int:
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(position, position + len(tokens)))
        if tokens:
            rows.append(Row(start, len(tokens), prefix_start, position))
        return start

    for triplet in triplets:
        prompt = list(triplet.prompt_ids)
        if not prompt:
            raise ValueError(f"prompt {triplet.id} has no tokens; a response needs one before it")
        if layout == "shared":
            shared = run(prompt, position=0)
        for role in roles:
            response = list(triplet.responses[role])
            if layout == "shared":
                last = shared + len(prompt) - 1
                begin = run(response[:-1], position=len(prompt), prefix_start=shared)
            else:
                last = run(prompt + response[:-1], position=0) + len(prompt) - 1
                begin = last + 1
            targets.extend(response)
            predictors.extend([last, *range(begin, begin + len(response) - 1)][: len(response)])
            lengths.append(len(response))

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)

    return Stream(
        tensor(ids)[None], tensor(positions)[None], tuple(rows),
        tensor(predictors), tensor(targets), tuple(lengths),
    )  # fmt: skip


def blocks(rows: Sequence[Row], *, device: torch.device) -> tuple[list[Block], Tensor]:
    """Rows as few padded attention calls, and where each position's output lies in them.

    -> blocks; order (num_tokens,): indices into the blocks' outputs, flattened, one after another
    """
    calls, order, offset = [], torch.empty(sum(row.length for row in rows), dtype=torch.long), 0
    for group in _alike(rows):
        num_queries = max(row.length for row in group)
        num_keys = max(row.num_keys for row in group)
        queries = torch.zeros(len(group), num_queries, dtype=torch.long)
        keys = torch.zeros(len(group), num_keys, dtype=torch.long)
        for i, row in enumerate(group):
            own = torch.arange(row.start, row.start + row.length)
            queries[i, : row.length] = own
            keys[i, : row.prefix] = torch.arange(row.prefix_start, row.prefix_start + row.prefix)
            keys[i, row.prefix : row.num_keys] = own
            first = offset + i * num_queries
            order[own] = torch.arange(first, first + row.length)
        offset += queries.numel()
        calls.append(
            Block(
                queries.to(device, non_blocking=True),
                keys.to(device, non_blocking=True),
                torch.tensor([row.prefix for row in group]).to(device, non_blocking=True),
                torch.tensor([row.num_keys for row in group]).to(device, non_blocking=True),
                all(row.prefix == 0 for row in group),
            )
        )
    return calls, order.to(device, non_blocking=True)


def cheaper(triplets: Sequence[Triplet], roles: Sequence[Role], *, hidden_size: int) -> Layout:
    """The layout that costs less, from the lengths alone."""
    costs = {"shared": 0.0, "separate": 0.0}
    for triplet in triplets:
        prompt = len(triplet.prompt_ids)
        fed = [max(len(triplet.responses[role]) - 1, 0) for role in roles]
        rows = [Row(0, prompt, 0, 0), *(Row(0, n, 0, prompt) for n in fed if n)]
        costs["shared"] += _cost(rows, hidden_size)
        costs["separate"] += _cost([Row(0, prompt + n, 0, 0) for n in fed], hidden_size)
    return "shared" if costs["shared"] < costs["separate"] else "separate"


def _cost(rows: Sequence[Row], hidden_size: int) -> float:
    attended = sum((PREFIXED if row.prefix else CAUSAL) * row.pairs for row in rows)
    return sum(row.length for row in rows) + attended / hidden_size


def _alike(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Cuts the rows, longest first, where one more call costs less than the padding it saves."""
    ordered = sorted(rows, key=lambda row: (row.prefix > 0, row.num_keys, row.length), reverse=True)
    group: list[Row] = []
    size = num_queries = num_keys = 0
    for row in ordered:
        wider = max(num_queries, row.length)
        grown = (len(group) + 1) * wider * num_keys
        if group and (
            grown - size > row.pairs + BLOCK_PAIRS or (row.prefix > 0) != (group[0].prefix > 0)
        ):
            yield group
            group = []
        if not group:
            wider, num_keys, grown = row.length, row.num_keys, row.pairs
        group.append(row)
        num_queries, size = wider, grown
    if group:
        yield group
