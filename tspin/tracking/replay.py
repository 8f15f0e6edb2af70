"""What the files of a run say, told to a View (tracking): live, for linked iterations, afterwards.

One road for all three, so that every tracker can be rebuilt from the files alone. No torch. A file
that is not what `artifacts` promises is a ValueError that names it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tspin.config.load import dump, load
from tspin.config.run import Run
from tspin.objectives.contingency import CELLS
from tspin.runs.artifacts import Iteration, RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import digest, flatten, read_json
from tspin.tools.parquet import each_row
from tspin.tracking import curriculum, report
from tspin.tracking.view import Identity, View

_MAX_NAME = 128  # characters of a name or a group in W&B


def settings(folder: RunDir) -> Run:
    """The configuration of the run's last launch: it may set what changes no number anew."""
    if folder.provenance.exists():
        with reading(folder.provenance):
            return load(read_json(folder.provenance)["launches"][-1]["config"])
    with reading(folder.config):
        return load(yaml.safe_load(folder.config.read_text(encoding="utf-8")))


def identity(folder: RunDir) -> Identity:
    """Name, group, objective, tags and flat configuration of the run.

    The configuration has, beside the keys of conf/: commit and commit_dirty of the last launch,
    data_digest, weights_digest (of the initial policy), as far as they are known.
    """
    run = settings(folder)
    return Identity(
        project=run.track.project,
        entity=run.track.entity,
        name=_fitting(run.name),
        group=_fitting(run.group),
        job_type=run.loss.label,
        tags=tuple(dict.fromkeys(run.tags)),
        config=flatten(dump(run)) | _origin(folder),
    )


def run(folder: RunDir, view: View) -> bool:
    """Everything, in the order in which a live run tells it. -> whether the run is complete"""
    num_iterations = settings(folder).selfplay.iterations
    evaluation(folder.base, 0, view)
    for t in range(num_iterations):
        steps(folder, t, view)
        iteration(folder, t, view)
        alerts(folder, t, view)
        evaluation(folder.iteration(t), t + 1, view)
    return folder.iteration(num_iterations - 1).done.exists()


def steps(folder: RunDir, t: int, view: View) -> None:
    """metrics.jsonl of iteration t, each step once: what a killed run repeated is cut there."""
    before = sum(len(_metrics(folder.iteration(k).metrics)) for k in range(t))
    for row in _metrics(folder.iteration(t).metrics):
        view.log_step({**row, "global_step": before + row["step"]})


def iteration(folder: RunDir, t: int, view: View) -> None:
    """Means and contingency table by split, what a curriculum chose, time by stage, distributions
    and samples with their rewards after iteration t.
    """
    out = folder.iteration(t)
    scalars: dict[str, float] = {}
    if out.contingency.exists():
        with reading(out.contingency):
            for split, facts in read_json(out.contingency).items():
                means = {key: value for key, value in facts.items() if isinstance(value, float)}
                scalars |= {f"{split}/{key}": value for key, value in _finite(means).items()}
                counts = _finite(facts["contingency"])
                if not counts:  # an objective without rewards has none
                    continue
                missing = [cell for cell in CELLS if cell not in counts]
                if missing:
                    raise ValueError(f"{split}/contingency lacks {', '.join(missing)}")
                view.log_contingency(t, split, counts)
    if out.choices.exists() and out.synthetic.exists():
        with reading(out.choices):
            chosen = _finite(curriculum.facts(out))
            scalars |= {f"curriculum/{key}": value for key, value in chosen.items()}
    if out.stages.exists():
        with reading(out.stages):
            seconds = _finite(read_json(out.stages))
            scalars |= {f"seconds/{stage}": value for stage, value in seconds.items()}
            whole = sum(seconds.values())
            if whole > 0:
                shares = {stage: value / whole for stage, value in seconds.items()}
                scalars |= {f"time_share/{stage}": share for stage, share in shares.items()}
    if scalars:
        view.log_iteration(t, scalars)
    scores = _scores(out) if out.contingency.exists() else []
    if scores:
        view.log_histograms(t, _distributions(scores))
    if out.samples.exists():
        with reading(out.samples), out.samples.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
            of_rows = _of_rows(scores, {row["id"] for row in rows})
            rows = [row | of_rows.get(row["id"], {}) for row in rows]
        view.log_samples(t, rows)


def alerts(folder: RunDir, t: int, view: View) -> None:
    """What is wrong with iteration t, in plain words, once it is complete."""
    if folder.iteration(t).done.exists():
        messages = report.sample_warnings(folder, t) | report.warnings(folder, t)
        for kind, message in messages.items():
            if message is not None:
                view.alert(kind, f"iteration {t}: {message}")


def evaluation(out: Iteration, num_iterations: int, view: View) -> None:
    """eval.json of the policy after that many iterations: held-out metrics, benchmarks, average.

    Subtasks of a group of tasks stay in the file.
    """
    if not out.evaluation.exists():
        return
    with reading(out.evaluation):
        results = read_json(out.evaluation)
        scalars: dict[str, float] = {}
        for metric, estimate in results.get("heldout", {}).items():
            scalars |= _estimate(eval_key("heldout", metric), estimate)
        for task, result in results.get("benchmarks", {}).items():
            for metric, estimate in result["metrics"].items():
                scalars |= _estimate(eval_key(task, metric), estimate)
        if "average" in results:
            scalars |= _estimate("average", results["average"])
    if scalars:
        view.log_evaluation(num_iterations, scalars)


def eval_key(task: str, metric: str) -> str:
    """("mmlu", "acc,none") -> "mmlu/acc"; ("gsm8k", "exact_match,strict-match") ->
    "gsm8k/exact_match_strict_match": W&B sorts and filters by letters, digits and _ only.
    """
    words = (task, metric.removesuffix(",none"))
    return "/".join(re.sub(r"[^A-Za-z0-9_]", "_", word) for word in words)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a file's content breaks inside becomes one ValueError that names the file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: has no {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}") from error


def _estimate(key: str, estimate: Mapping[str, Any]) -> dict[str, float]:
    values = {key: estimate["value"], f"{key}_stderr": estimate["stderr"]}
    return _finite({name: value for name, value in values.items() if value is not None})


def _scores(out: Iteration) -> list[dict[str, Any]]:
    if not out.scores.exists():
        return []
    with reading(out.scores):
        return [*each_row(out.scores, "id", "split", "role", "logp", "reward")]


def _distributions(scores: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """SPLIT/{rewards,logps}/ROLE -> one value a row; rewards where the objective has some."""
    values: dict[str, list[float]] = {}
    for row in scores:
        values.setdefault(f"{row['split']}/logps/{row['role']}", []).append(row["logp"])
        if row["reward"] is not None:
            values.setdefault(f"{row['split']}/rewards/{row['role']}", []).append(row["reward"])
    return values


def _of_rows(
    scores: Sequence[Mapping[str, Any]], ids: set[str]
) -> dict[str, dict[str, float | None]]:
    """Prompt id -> logp_ROLE and reward_ROLE of the rows that are shown."""
    values: dict[str, dict[str, float | None]] = {}
    for row in scores:
        if row["id"] in ids:
            of_role = {f"logp_{row['role']}": row["logp"], f"reward_{row['role']}": row["reward"]}
            values.setdefault(row["id"], {}).update(of_role)
    return values


def _metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with reading(path):
        rows = StepLog.read(path)
        for step, row in enumerate(rows):
            if row["step"] != step:
                raise ValueError(f"step {row['step']} follows on {step} rows")
            _finite(row)
    return rows


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same. Raises ValueError for what is no finite number."""
    for key, value in values.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} is {value!r}, no finite number")
    return dict(values)


def _origin(folder: RunDir) -> dict[str, Any]:
    origin: dict[str, Any] = {}
    if folder.provenance.exists():
        with reading(folder.provenance):
            git = read_json(folder.provenance)["launches"][-1]["git"]
            if git is not None:  # None: no git checkout
                origin |= {"commit": git["revision"], "commit_dirty": git["dirty"]}
    if folder.data.exists():
        with reading(folder.data):
            origin["data_digest"] = read_json(folder.data)["digest"]
    if folder.initial.exists():
        with reading(folder.initial):
            origin["weights_digest"] = read_json(folder.initial)["weights"]
    return origin


def _fitting(name: str) -> str:
    """The name, or as much of it as W&B takes and a digest of the rest."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 9]}-{digest(name)[:8]}"
