"""Stage: which training prompts of iteration t get a new y' and a step, and by what.

Reads what the iteration before left, scores and choices; computes no log-probability anew. What is
chosen is a function of these files and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tspin.config.run import CurriculumConfig
from tspin.data.curriculum import Row, chosen, idle_now
from tspin.objectives import ROLES, Logps, Objective, Role
from tspin.objectives.gradient_left import gradient_left
from tspin.runs.artifacts import CHOICES, Iteration
from tspin.tools.parquet import each_row, write_rows

COLUMNS = ("logp", "num_tokens", "ref_logp")
Responses = Mapping[Role, Mapping[str, Sequence[int]]]  # ids of tokens by prompt id
Scores = dict[str, dict[Role, np.ndarray]]  # COLUMNS by role, (prompts,) each, NaN: not scored


@dataclass(frozen=True)
class Choice:
    """What a choice at iteration t depends on, beside files.

    trained   the objective of iteration t - 1, which its scores are of
    at_least  rows: those of an optimiser step
    """

    how: CurriculumConfig
    trained: Objective
    seed: int
    t: int
    at_least: int


def choose(responses: Responses, before: Iteration, out: Path, choice: Choice) -> None:
    """choices.parquet: a row for each training prompt.

    responses  by role the ids of each prompt's response before iteration t; the prompts that have
               an annotated one are chosen from, a prompt without a synthetic one has no y' to keep
    before     iteration t - 1
    """
    how, ids, kept = choice.how, [*responses["annotated"]], responses.get("synthetic", {})
    numbers = _values(_scores(before.scores, ids), _texts(responses), choice).tolist()
    values = {i: None if math.isnan(x) else x for i, x in zip(ids, numbers, strict=True)}
    # Without choices, as at iteration 0, all prompts were chosen.
    earlier = {row["id"]: row for row in _rows(before.choices)}
    default = {"chosen": True, "idle": 0, "source": before.t}

    def idle(name: str) -> int:
        if how.least is None:
            return 0
        last = earlier.get(name, default)
        return idle_now(values[name], last["idle"], trained=last["chosen"], least=how.least)

    rows = [Row(name, values[name], idle(name), name in kept) for name in ids]
    new = chosen(rows, how, seed=choice.seed, t=choice.t, at_least=choice.at_least)
    choices = (
        {
            "id": row.id,
            "chosen": row.id in new,
            "source": choice.t if row.id in new else earlier.get(row.id, default)["source"],
            "value": row.value,
            "idle": row.idle,
        }
        for row in rows
    )
    write_rows(out, choices, CHOICES)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return each_row(path) if path.exists() else iter(())


def _scores(path: Path, ids: Sequence[str]) -> Scores:
    """Of the prompts with these ids, in their order."""
    place = {name: i for i, name in enumerate(ids)}
    scores: Scores = {key: {role: np.full(len(ids), math.nan) for role in ROLES} for key in COLUMNS}
    for row in each_row(path, "id", "role", *COLUMNS):
        if row["id"] in place:
            for key in COLUMNS:
                value = row[key]
                scores[key][row["role"]][place[row["id"]]] = math.nan if value is None else value
    return scores


def _texts(responses: Responses) -> dict[Role, np.ndarray]:
    """A number for each response by role, (prompts,): equal in a row for what is the same."""
    columns = []
    for name in responses["annotated"]:
        row = [responses.get(role, {}).get(name) for role in ROLES]
        columns.append([row.index(ids) for ids in row])
    return dict(zip(ROLES, np.array(columns).T, strict=True))


def _values(scores: Scores, texts: dict[Role, np.ndarray], choice: Choice) -> np.ndarray:
    """What the prompts are chosen by, (prompts,); NaN where it is not known."""
    logps, lengths, of_reference = (scores[key] for key in COLUMNS)
    if choice.how.prompts == "random":
        return np.full(len(logps["annotated"]), math.nan)
    if choice.how.prompts == "band":
        return logps["annotated"] / lengths["annotated"]
    objective = choice.trained
    roles = [role for role in ROLES if role in {"annotated", *objective.roles}]
    against = objective.reference_roles
    read = [*(logps[role] for role in roles), *(of_reference[role] for role in against)]
    known = np.asarray(~np.isnan(read).any(axis=0))

    def bundle(columns: dict[Role, np.ndarray], roles: Sequence[Role]) -> Logps:
        of_known = {role: torch.from_numpy(columns[role][known]) for role in roles}
        units = {role: torch.from_numpy(lengths[role][known]) for role in roles}
        return Logps(lengths=units).with_values(of_known)

    left = gradient_left(
        objective,
        bundle(logps, roles),
        bundle(of_reference, against) if against else None,
        {role: torch.from_numpy(texts[role][known]) for role in roles},
    )
    values = np.full(len(known), math.nan)
    values[known] = left.numpy()
    return values
