"""Stage: log-probabilities of responses under a policy, one parquet row per triplet and role.

Run before the first update it is the reference (the policy at the start of the iteration, scored
once and stored, so that no second model is ever in memory); run after the last it is what the
rewards, the contingency table and the diagnostics are counted from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tspin.artifacts import SCORES
from tspin.console import progress
from tspin.distributed import ALONE, World
from tspin.files import write_json, write_rows
from tspin.logps import Role
from tspin.losses import Loss, contingency
from tspin.model import Policy
from tspin.triplets import Key, Triplet


@torch.no_grad()
def score(
    policy: Policy,
    batches: Iterable[list[Triplet]],
    roles: tuple[Role, ...],
    *,
    total: int,
    label: str,
    world: World = ALONE,
) -> dict[Key, float]:
    """log pi(z | x) in nats of every (prompt, source, role), computed batch by batch as given.

    Several processes divide the batches; each returns all.

    A response's log-probability depends on the padding beside it in the last bits: scored over
    the batches that training begins with, the first margin against the reference is exactly 0.
    """
    logps: dict[Key, float] = {}
    with progress(total, label, "triplet", show=world.is_main) as bar:
        for batch in world.share(list(batches), passed=lambda batch: bar.update(len(batch))):
            found = policy.logps(batch, roles)
            for role in roles:
                for triplet, logp in zip(batch, found[role].tolist(), strict=True):
                    logps[triplet.id, triplet.source, role] = logp
            bar.update(len(batch))
        return {key: logp for found in world.gather(logps) for key, logp in found.items()}


def write_scores(
    path: Path,
    triplets: Sequence[Triplet],
    logps: dict[Key, float],
    *,
    reference: dict[Key, float] | None = None,
    loss: Loss | None = None,
) -> None:
    """scores.parquet; with `loss`, the rewards of every role that its reference covers."""
    rows = []
    for triplet in triplets:
        for role in triplet.responses:
            key = (triplet.id, triplet.source, role)
            if key in logps:
                ref_logp = None if reference is None else reference.get(key)
                rows.append(
                    {
                        "id": triplet.id,
                        "split": triplet.split,
                        "source": triplet.source,
                        "role": role,
                        "logp": logps[key],
                        "num_tokens": len(triplet.responses[role]),
                        "ref_logp": ref_logp,
                        "reward": _reward(loss, logps[key], ref_logp),
                    }
                )
    write_rows(path, rows, SCORES)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figure 3 from rows of scores.parquet: by split, means by role and the contingency table.

    Counts are over all triplets of the split that have rewards for y and y'.
    """
    result: dict[str, dict[str, Any]] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        mine = [row for row in rows if row["split"] == split]
        facts: dict[str, Any] = {"num_prompts": len({row["id"] for row in mine})}
        for role in dict.fromkeys(row["role"] for row in mine):
            of_role = [row for row in mine if row["role"] == role]
            facts[f"logps/{role}"] = _mean(row["logp"] for row in of_role)
            facts[f"logps_per_token/{role}"] = sum(r["logp"] for r in of_role) / sum(
                r["num_tokens"] for r in of_role
            )
            if all(row["reward"] is not None for row in of_role):
                facts[f"rewards/{role}"] = _mean(row["reward"] for row in of_role)
        facts["contingency"] = _count(mine)
        result[split] = facts
    return result


def write_contingency(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_json(path, summarise(rows))


def _count(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    by_key = {(r["id"], r["source"], r["role"]): (r["reward"], r["logp"]) for r in rows}
    pairs = [
        (by_key[i, source, "annotated"], by_key[i, source, "synthetic"])
        for i, source, role in by_key
        if role == "annotated" and (i, source, "synthetic") in by_key
    ]
    pairs = [(y, s) for y, s in pairs if y[0] is not None and s[0] is not None]
    if not pairs:
        return {}
    y, s = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    return {k: int(v.sum()) for k, v in contingency(y[:, 0], s[:, 0], y[:, 1], s[:, 1]).items()}


def _reward(loss: Loss | None, logp: float, ref_logp: float | None) -> float | None:
    if loss is None or not loss.has_reward or (loss.needs_reference and ref_logp is None):
        return None
    ref = None if ref_logp is None else torch.tensor(ref_logp, dtype=torch.float64)
    return float(loss.reward(torch.tensor(logp, dtype=torch.float64), ref))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
