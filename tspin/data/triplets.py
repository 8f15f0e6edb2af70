"""Triplets {annotated y, synthetic y', proto-synthetic y0} as ids: join, order, batches, tensors.

Batches are formed here from the data and a seed alone, before anybody deals them out, so that
training, scoring, restarts and the cut into micro-batches all see the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tspin.objectives import Role
from tspin.tools.seeds import seed_for

Key = tuple[str, int, str]  # prompt id, source, role: one response of a triplet


@dataclass(frozen=True, slots=True)
class Triplet:
    """One prompt and its responses, as ids.

    source  iteration whose policy sampled the synthetic response.
    Ids are in lists, or in arrays of 2 or 4 bytes each, of many rows on the disk (tools.spill).

    Example: Triplet("9f", "train", 1, [1, 5], {"annotated": [7], "synthetic": [8], "proto": [9]})
    """

    id: str
    split: str
    source: int
    prompt_ids: Sequence[int]
    responses: Mapping[Role, Sequence[int]]

    def length(self, roles: Sequence[Role]) -> int:
        """Tokens of its longest sequence among `roles`."""
        return len(self.prompt_ids) + max(len(self.responses[role]) for role in roles)


def join(
    prompts: Sequence[dict[str, Any]],
    source: int,
    synthetic: Mapping[str, Sequence[int]] | None = None,
    proto: Mapping[str, Sequence[int]] | None = None,
    *,
    sources: Mapping[str, int] | None = None,
) -> list[Triplet]:
    """Prompt rows with the responses sampled for them, joined on the prompt's id.

    prompts           rows of prompts.parquet
    source            iteration whose policy sampled `synthetic`
    synthetic, proto  prompt id -> response ids; None where none were sampled
    sources           prompt id -> another iteration that its synthetic response is of

    Raises ValueError naming the first prompt that a set lacks.
    """
    sets: dict[Role, Mapping[str, Sequence[int]] | None] = {"synthetic": synthetic, "proto": proto}
    triplets = []
    for row in prompts:
        responses: dict[Role, Sequence[int]] = {"annotated": row["annotated_ids"]}
        for role, by_id in sets.items():
            if by_id is not None:
                if row["id"] not in by_id:
                    raise ValueError(f"prompt {row['id']} has no {role} response")
                responses[role] = by_id[row["id"]]
        of_row = source if sources is None else sources.get(row["id"], source)
        triplets.append(Triplet(row["id"], row["split"], of_row, row["prompt_ids"], responses))
    return triplets


def epoch(
    triplets: Sequence[Triplet], *, batch_size: int, seed: int, t: int, epoch: int
) -> list[list[Triplet]]:
    """One pass over the triplets in a seeded order, cut into optimiser batches.

    The last batch may be short: its gradient is the mean over what it holds.
    """
    order = np.random.default_rng(seed_for(seed, "order", t, epoch)).permutation(len(triplets))
    shuffled = [triplets[i] for i in order]
    return [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]


def micro_batches(
    batch: Sequence[Triplet], roles: Sequence[Role], *, size: int, max_tokens: int | None = None
) -> Iterator[list[Triplet]]:
    """A batch cut for the device, longest triplets first so that like sits with like.

    size        triplets in each, where max_tokens is None
    max_tokens  tokens in each, as num_tokens counts them; a longer triplet goes alone
    """
    ordered = sorted(batch, key=lambda t: (-t.length(roles), t.id, t.source))
    part: list[Triplet] = []
    tokens = 0
    for triplet in ordered:
        more = num_tokens([triplet], roles)
        full = len(part) == size if max_tokens is None else tokens + more > max_tokens
        if part and full:
            yield part
            part, tokens = [], 0
        part.append(triplet)
        tokens += more
    if part:
        yield part


@dataclass(frozen=True)
class Batch:
    """Padded sequences, role-major: all rows of roles[0], then of roles[1], ...

    All tensors (len(roles) * batch, length); masks are boolean.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device), self.attention_mask.to(device), self.response_mask.to(device)
        )


def collate(triplets: Sequence[Triplet], roles: Sequence[Role], *, pad_id: int) -> Batch:
    """prompt ids + response ids per row, padded on the right, masked by length, not by pad id."""
    rows = [(t.prompt_ids, t.responses[role]) for role in roles for t in triplets]
    ids = [torch.tensor([*prompt, *response], dtype=torch.long) for prompt, response in rows]
    input_ids = pad_sequence(ids, batch_first=True, padding_value=pad_id)
    starts, ends = torch.tensor([(len(p), len(p) + len(r)) for p, r in rows])[:, :, None].unbind(1)
    places = torch.arange(input_ids.shape[1])
    return Batch(input_ids, places < ends, (starts <= places) & (places < ends))


def keyed(rows: Iterable[dict[str, Any]]) -> dict[Key, float]:
    """Rows of ref_scores.parquet -> (prompt id, source, role) -> logp."""
    return {(row["id"], row["source"], intern(row["role"])): row["logp"] for row in rows}


def num_tokens(triplets: Sequence[Triplet], roles: Sequence[Role]) -> int:
    """Prompt and response tokens that the sequences of `roles` hold, padding left out."""
    return sum(len(t.prompt_ids) + len(t.responses[r]) for t in triplets for r in roles)


def num_useful(triplets: Sequence[Triplet], roles: Sequence[Role]) -> int:
    """The same with the prompt of a triplet counted once: what has to be computed at least."""
    return sum(len(t.prompt_ids) + sum(len(t.responses[r]) for r in roles) for t in triplets)


def num_padding(triplets: Sequence[Triplet], roles: Sequence[Role]) -> int:
    """Positions that `collate` fills up: all sequences become as long as the longest."""
    longest = max(t.length(roles) for t in triplets)
    return len(triplets) * len(roles) * longest - num_tokens(triplets, roles)
