"""What a run tells people: its table, samples and warnings. Reads files, computes nothing new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

from tspin.objectives import ROLES
from tspin.runs.artifacts import Iteration, Responses, RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import read_json, write_jsonl
from tspin.tools.parquet import each_row
from tspin.tracking import curriculum, health

# Column of the table -> metric of eval.json's held-out part.
HELDOUT_COLUMNS = {
    "accuracy_greedy": "exact_match,greedy",
    "accuracy_sampled": "exact_match,sampled",
    "accuracy_cool": "exact_match,cool",
    "accuracy_current": "exact_match,greedy,current",
    "accuracy_past": "exact_match,greedy,past",
    "perplexity": "perplexity",
}
# Of metrics.jsonl, means over the time: tokens over seconds are tokens over seconds.
ANNOTATED = ("id", "annotated_ids")
SPEED_COLUMNS = (
    "tokens_per_second",
    "useful_tokens_per_second",
    "padding_share",
    "flop_utilisation",
)


def results(folder: RunDir) -> list[dict[str, Any]]:
    """One row per complete iteration, the initial policy first where it was evaluated."""
    rows: list[dict[str, Any]] = []
    base = worth(folder.base)
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
        row |= facts["contingency"] | worth(out)
        row |= {f"curriculum_{key}": value for key, value in curriculum.facts(out).items()}
        row |= speed(steps)
        seconds = read_json(out.done)["seconds"]
        row |= {f"seconds_{stage}": value for stage, value in seconds.items()}
        whole = sum(seconds.values())
        if whole > 0:
            row |= {f"time_share_{stage}": value / whole for stage, value in seconds.items()}
        rows.append(row)
    return rows


def speed(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of SPEED_COLUMNS over the time of an iteration's steps, as far as all have them."""
    whole = sum(row["seconds"] for row in steps)
    return {
        key: sum(row[key] * row["seconds"] for row in steps) / whole
        for key in SPEED_COLUMNS
        if all(key in row for row in steps)
    }


def worth(out: Iteration) -> dict[str, Any]:
    """HELDOUT_COLUMNS, the benchmarks and their average, as far as eval.json has them.

    benchmarks  "TASK METRIC" -> value, stderr
    """
    if not out.evaluation.exists():
        return {}
    results = read_json(out.evaluation)
    heldout = results.get("heldout", {})
    row: dict[str, Any] = {
        column: heldout[metric]["value"]
        for column, metric in HELDOUT_COLUMNS.items()
        if metric in heldout
    }
    if "benchmarks" in results:
        row["benchmarks"] = {
            f"{task} {metric}": estimate
            for task, result in results["benchmarks"].items()
            for metric, estimate in result["metrics"].items()
        }
    if "average" in results:
        row["average"] = results["average"]["value"]
        row["benchmarks"]["average"] = results["average"]
    return row


def samples(folder: RunDir, t: int, proto: Responses, *, count: int) -> None:
    """samples.jsonl: a few prompts with their responses, held-out first, for reading.

    proto  the y0 of the iteration
    """
    out, wanted = folder.iteration(t), ("id", "split", "prompt", "annotated")
    chosen = nsmallest(
        count,
        each_row(folder.prompts, *wanted),
        key=lambda row: (row["split"] != "heldout", row["id"]),
    )
    ids = {row["id"] for row in chosen}
    responses = {
        role: {r["id"]: r["response"] for r in source.each("id", "response") if r["id"] in ids}
        for role, source in (("synthetic", out.synthetic), ("proto", proto))
        if source.exists()
    }
    rows = [
        row | {role: by_id[row["id"]] for role, by_id in responses.items()}
        for row in chosen
        if all(row["id"] in by_id for by_id in responses.values())  # else it is not there yet
    ]
    write_jsonl(out.samples, rows)


def sample_warnings(folder: RunDir, t: int) -> dict[str, str | None]:
    """What is wrong with the samples that iteration t trains on, likewise, known before its first
    step; nothing without any. At t = 0 y0 is y'."""
    out = folder.iteration(t).synthetic
    if not out.exists():
        return {}
    # Of the ids a hash: all three responses of many rows are large.
    rows = each_row(folder.prompts, *ANNOTATED)
    annotated = {row["id"]: hash(tuple(row["annotated_ids"])) for row in rows}
    proto = {}
    if t > 0 and folder.proto.exists():
        rows = folder.proto.each("id", "response_ids")
        proto = {row["id"]: hash(tuple(row["response_ids"])) for row in rows}
    equal, reasons = Counter[str](), Counter[str]()
    for row in out.each("id", "response_ids", "finish_reason"):
        synthetic, y = hash(tuple(row["response_ids"])), annotated[row["id"]]
        equal["same"] += synthetic == y
        if proto:
            equal["unmoved"] += synthetic == proto[row["id"]]
            equal["y0_same"] += proto[row["id"]] == y
        reasons[row["finish_reason"]] += 1
    same = {kind: health.identical(kind, num, reasons.total()) for kind, num in equal.items()}
    return {"cut": health.cut(reasons), **same}


def warnings(folder: RunDir, t: int) -> dict[str, str]:
    """What is wrong with a run at the end of iteration t, in plain words, by kind: the alerts
    (health) that its page shows."""
    outs = [folder.iteration(k) for k in sorted({*folder.iterations(), *folder.begun()}) if k <= t]
    steps = {out.t: StepLog.read(out.metrics) for out in outs if out.metrics.exists()}
    lengths = {out.t: _mean_tokens(out.synthetic) for out in outs if out.synthetic.exists()}
    reasons = Counter[str]()
    if t in lengths:
        samples = folder.iteration(t).synthetic
        reasons.update(row["finish_reason"] for row in samples.each("finish_reason"))
    return health.alerts(steps, lengths, reasons)


def _mean_tokens(samples: Responses) -> float:
    numbers = [row["num_tokens"] for row in samples.each("num_tokens")]
    return sum(numbers) / max(1, len(numbers))
