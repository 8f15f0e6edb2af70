"""What a run tells people: its table, samples and warnings. Reads files, computes nothing new."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from tspin import health
from tspin.artifacts import Iteration, RunDir
from tspin.files import read_json, write_json, write_jsonl
from tspin.logps import ROLES
from tspin.tracking import StepLog, Tracker


def results(folder: RunDir) -> list[dict[str, Any]]:
    """One row per complete iteration, the initial policy first where it was evaluated."""
    rows: list[dict[str, Any]] = []
    base = accuracy(folder.base)
    if base:
        rows.append({"iteration": "base"} | base)
    for t in folder.iterations():
        out = folder.iteration(t)
        steps = StepLog.read(out.metrics)
        last = [row["loss"] for row in steps if row["epoch"] >= int(steps[-1]["epoch"])]
        facts = read_json(out.contingency)["train"]
        row: dict[str, Any] = {"iteration": t, "loss": sum(last) / len(last)}
        for kind in ("rewards", "logps"):
            row |= {f"{kind}_{role}": facts.get(f"{kind}/{role}") for role in ROLES}
        row |= facts["contingency"] | accuracy(out)
        row |= {f"seconds_{k}": v for k, v in read_json(out.done)["seconds"].items()}
        rows.append(row)
    return rows


def accuracy(out: Iteration) -> dict[str, float]:
    """{"accuracy_greedy": share right, "accuracy_sampled": ...} where answers can be checked."""
    if not out.evaluation.exists():
        return {}
    return {
        "accuracy_" + key.removeprefix("exact_match,"): metric["value"]
        for task in read_json(out.evaluation).values()
        for key, metric in task.items()
    }


def samples(
    folder: RunDir, t: int, prompts: Sequence[dict[str, Any]], tracker: Tracker, *, count: int
) -> None:
    """samples.jsonl: a few prompts with their responses, held-out first, for reading."""
    out = folder.iteration(t)
    chosen = sorted(prompts, key=lambda row: (row["split"] != "heldout", row["id"]))[:count]
    responses = {
        role: {row["id"]: row["response"] for row in source.rows()}
        for role, source in (("synthetic", out.synthetic), ("proto", folder.proto))
        if source.exists()
    }
    rows = [
        {key: row[key] for key in ("id", "split", "prompt", "annotated")}
        | {role: by_id[row["id"]] for role, by_id in responses.items()}
        for row in chosen
    ]
    write_jsonl(out.samples, rows)
    tracker.log_samples(t, rows)


def iteration(
    folder: RunDir, t: int, summary: dict[str, dict[str, Any]], tracker: Tracker
) -> dict[str, str | None]:
    """Shows a finished iteration in the tracker. -> warnings about it, by kind

    summary  contingency.json: by split, mean log-probs and rewards and the contingency table
    """
    out = folder.iteration(t)
    scalars: dict[str, float] = {}
    for split, facts in summary.items():
        scalars |= {f"{split}/{k}": v for k, v in facts.items() if isinstance(v, float)}
        if facts["contingency"]:
            tracker.log_contingency(t, split, facts["contingency"])
    tracker.log_iteration(t, scalars | {f"heldout/{k}": v for k, v in accuracy(out).items()})
    steps = StepLog.read(out.metrics)
    start = StepLog.read(folder.first_metrics())[0]["logps/annotated"]
    return {
        "saturation": health.saturation(steps),
        "collapse": health.collapse(start, summary["train"]["logps/annotated"]),
    }


def tracking_id(folder: RunDir) -> str:
    """The run's id in the tracker: drawn once, kept over restarts."""
    if not folder.tracking.exists():
        write_json(folder.tracking, {"id": secrets.token_hex(4)})
    return str(read_json(folder.tracking)["id"])
