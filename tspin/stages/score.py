"""Stage: log-probabilities of responses under a policy, one parquet row per triplet and role.

Run before the first update it is the reference (the policy at the start of the iteration, scored
once and stored, so that no second model is ever in memory); run after the last it is what the
rewards, the contingency table and the diagnostics are counted from.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tspin.data.tokens import Renderer
from tspin.data.triplets import Key, Triplet, micro_batches, num_tokens
from tspin.distributed.world import ALONE, World
from tspin.objectives import Objective, Role, contingency
from tspin.policy import finite
from tspin.policy.out_of_memory import until_it_fits
from tspin.policy.policy import Policy
from tspin.runs.artifacts import SCORES, TOKEN_LOGPS, TOKEN_LOGPS_PER_GROUP
from tspin.tools.files import write_json
from tspin.tools.parquet import write_rows
from tspin.tools.terminal import progress
from tspin.training.cut import Cut

LEAST = torch.finfo(torch.float16).min  # below it a token's log-probability would be infinite


class Scores(NamedTuple):
    """Of every (prompt, source, role) log pi(z | x) in nats; of some also of single tokens
    (num_tokens,), in float16, which is for people to look at."""

    logps: dict[Key, float]
    tokens: dict[Key, np.ndarray]


@torch.no_grad()
def score(
    policy: Policy,
    batches: Iterable[list[Triplet]],
    roles: tuple[Role, ...],
    *,
    label: str,
    with_tokens: Collection[str] = (),
    world: World = ALONE,
) -> Scores:
    """log pi(z | x) of every response, computed batch by batch as given.

    with_tokens  ids of the prompts of whose responses single tokens are wanted too

    Several processes divide the batches; each returns all. A batch that does not fit into memory
    is cut by tokens, half as many at a time, and so are those after it.

    A response's log-probability depends on the padding beside it in the last bits: scored over
    the batches that training begins with, the first margin against the reference is exactly 0.
    """
    scores = Scores({}, {})
    batches = list(batches)
    budget = _Budget(None)
    with progress(sum(map(len, batches)), label, "triplet", show=world.is_main) as bar:
        for batch in world.share(batches, passed=lambda batch: bar.update(len(batch))):
            of_batch, budget = until_it_fits(
                partial(_score, policy, batch, roles, with_tokens),
                budget,
                partial(_Budget.halved, batch=batch, roles=roles),
                where=label,
                same="the log-probabilities are the same",
            )
            _add(scores, of_batch)
            bar.update(len(batch))
        everyones, *others = world.gather(scores)
        for theirs in others:
            _add(everyones, theirs)
        return everyones


def write_scores(
    path: Path,
    triplets: Sequence[Triplet],
    logps: dict[Key, float],
    *,
    reference: dict[Key, float] | None = None,
    loss: Objective | None = None,
) -> None:
    """scores.parquet; with `loss`, the rewards of every role that its reference covers."""

    def rows() -> Iterator[dict[str, Any]]:
        for triplet in triplets:
            for role in triplet.responses:
                key = (triplet.id, triplet.source, role)
                if key in logps:
                    ref_logp = None if reference is None else reference.get(key)
                    yield {
                        "id": triplet.id,
                        "split": triplet.split,
                        "source": triplet.source,
                        "role": role,
                        "logp": logps[key],
                        "num_tokens": len(triplet.responses[role]),
                        "ref_logp": ref_logp,
                        "reward": _reward(loss, logps[key], ref_logp, len(triplet.responses[role])),
                    }

    write_rows(path, rows(), SCORES)


def shown(triplets: Sequence[Triplet], count: int) -> list[Triplet]:
    """Those whose tokens are kept: held-out first, by id, the same ones in every iteration."""
    return nsmallest(count, triplets, key=lambda it: (it.split != "heldout", it.id))


def write_token_logps(
    path: Path, triplets: Sequence[Triplet], tokens: Mapping[Key, np.ndarray], renderer: Renderer
) -> None:
    """token_logps.parquet of those of the triplets' responses that are in `tokens`."""

    def rows() -> Iterator[dict[str, Any]]:
        for triplet in triplets:
            for role, ids in triplet.responses.items():
                if (logps := tokens.get((triplet.id, triplet.source, role))) is not None:
                    pieces = renderer.pieces(ids)
                    yield {"id": triplet.id, "role": role, "tokens": pieces, "logps": logps}

    write_rows(path, rows(), TOKEN_LOGPS, per_group=TOKEN_LOGPS_PER_GROUP)


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figure 3 from rows of scores.parquet: by split, means by role and the contingency table.

    Counts are over all triplets of the split that have rewards for y and y'.
    """
    splits: dict[str, dict[str, _Scores]] = {}
    places: dict[tuple[str, int], int] = {}  # prompt id, source -> number of the triplet
    for row in rows:
        of_role = splits.setdefault(row["split"], {}).setdefault(row["role"], _Scores())
        of_role.add(row, places.setdefault((row["id"], row["source"]), len(places)))
    prompts = [prompt for prompt, _ in places]
    result: dict[str, dict[str, Any]] = {}
    for split, roles in splits.items():
        scored = {place for scores in roles.values() for place in scores.places}
        facts: dict[str, Any] = {"num_prompts": len({prompts[place] for place in scored})}
        for role, scores in roles.items():
            total = sum(scores.logps)
            facts[f"logps/{role}"] = total / len(scores.logps)
            facts[f"logps_per_token/{role}"] = total / scores.num_tokens
            if not scores.lacking:
                facts[f"rewards/{role}"] = sum(scores.rewards) / len(scores.rewards)
        facts["contingency"] = _count(roles, len(places))
        result[split] = facts
    return result


def write_contingency(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_json(path, summarise(rows))


@dataclass(frozen=True)
class _Budget:
    """Tokens scored at a time, a longer triplet alone; None: a batch as it is given."""

    tokens: int | None

    def parts(self, batch: list[Triplet], roles: tuple[Role, ...]) -> list[list[Triplet]]:
        if self.tokens is None:
            return [batch]
        return list(micro_batches(batch, roles, size=len(batch), max_tokens=self.tokens))

    def halved(self, batch: list[Triplet], roles: tuple[Role, ...]) -> _Budget | None:
        """None where each triplet goes alone already."""
        tokens = num_tokens(batch, roles) if self.tokens is None else self.tokens
        smaller = Cut(len(batch), tokens).halved(batch, roles)
        return None if smaller is None else _Budget(smaller.max_tokens)

    def __str__(self) -> str:
        return f"at most {self.tokens} tokens at a time (compute.max_tokens)"


def _score(
    policy: Policy,
    batch: list[Triplet],
    roles: tuple[Role, ...],
    with_tokens: Collection[str],
    budget: _Budget,
) -> Scores:
    """log-probs of a batch, as much of it at a time as the budget says"""
    scores = Scores({}, {})
    for part in budget.parts(batch, roles):
        by_role, tokens = policy.token_logps(part, roles)
        rows = torch.stack([by_role[role] for role in roles]).cpu()  # the device is waited for once
        for role, row in zip(roles, rows, strict=True):
            finite.check(row, f"its log-probabilities of {role} responses")
            for triplet, logp in zip(part, row.tolist(), strict=True):
                scores.logps[triplet.id, triplet.source, role] = logp
        keys = [(x.id, x.source, role) for x in part for role in roles]
        wanted = [i for i, (name, *_) in enumerate(keys) if name in with_tokens]
        if wanted:
            values = torch.cat([tokens[i] for i in wanted]).clamp(min=LEAST).half().cpu()
            by_response = values.split([len(tokens[i]) for i in wanted])
            for i, response in zip(wanted, by_response, strict=True):
                scores.tokens[keys[i]] = response.numpy()
    return scores


def _add(scores: Scores, others: Scores) -> None:
    scores.logps.update(others.logps)
    scores.tokens.update(others.tokens)


class _Scores:
    """The rows of a role, in their order, as arrays of numbers; NaN stands for no reward."""

    def __init__(self) -> None:
        self.places, self.logps, self.rewards = array("q"), array("d"), array("d")
        self.num_tokens = self.lacking = 0

    def add(self, row: dict[str, Any], place: int) -> None:
        """place: number of its triplet"""
        lacking = row["reward"] is None
        self.places.append(place)
        self.logps.append(row["logp"])
        self.rewards.append(math.nan if lacking else row["reward"])
        self.num_tokens += row["num_tokens"]
        self.lacking += lacking

    def table(self, size: int) -> torch.Tensor:
        """(size, 2): reward and log-probability of the triplet with each number, NaN without."""
        table = torch.full((size, 2), math.nan, dtype=torch.float64)
        for column, values in enumerate((self.rewards, self.logps)):
            table[np.asarray(self.places), column] = torch.from_numpy(np.asarray(values))
        return table


def _count(roles: Mapping[str, _Scores], size: int) -> dict[str, int]:
    y, s = (roles[role].table(size) if role in roles else torch.full((size, 2), math.nan)
            for role in ("annotated", "synthetic"))  # fmt: skip
    both = ~(y[:, 0].isnan() | s[:, 0].isnan())
    if not both.any():
        return {}
    y, s = y[both], s[both]
    return {k: int(v.sum()) for k, v in contingency(y[:, 0], s[:, 0], y[:, 1], s[:, 1]).items()}


def _reward(
    loss: Objective | None, logp: float, ref_logp: float | None, length: int
) -> float | None:
    """length: tokens of the response"""
    if loss is None or not loss.has_reward or (loss.needs_reference and ref_logp is None):
        return None
    unit = length if loss.per_token else 1
    ref = None if ref_logp is None else torch.tensor(ref_logp / unit, dtype=torch.float64)
    return float(loss.reward(torch.tensor(logp / unit, dtype=torch.float64), ref))
