"""Results of benchmarks in a run folder: their tasks, their files, what is missing. No torch.

One file per task, named by what decides its numbers beside the weights; stages.benchmark makes it.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tspin.config.run import EvalsConfig, EvalTask, Run
from tspin.runs.artifacts import Iteration
from tspin.tools.files import digest, file_digest, read_json


def tasks(evals: EvalsConfig) -> dict[str, EvalTask]:
    """The tasks that are meant: those named, or else all of tasks_dir (a group for its members)."""
    if evals.tasks or evals.tasks_dir is None:
        return evals.tasks
    names: list[str] = []
    members: set[str] = set()
    for file in sorted(path(evals.tasks_dir).rglob("*.yaml")):
        try:
            tree = yaml.load(file.read_text(encoding="utf-8"), _TaskFile)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
        task = tree.get("task") if isinstance(tree, dict) else None
        if isinstance(task, str):
            names.append(task)
        elif isinstance(task, list) and isinstance(tree.get("group"), str):
            names.append(tree["group"])
            members |= {x if isinstance(x, str) else x.get("task", x.get("group")) for x in task}
    if not names:
        raise ValueError(f"evals.tasks_dir={evals.tasks_dir} has no *.yaml with a task for lm-eval")
    return {name: EvalTask(shots=None, metric=None) for name in names if name not in members}


def missing(out: Iteration, run: Run) -> list[str]:
    """The tasks that have no result yet."""
    return [task for task, file in files(out, run).items() if not file.exists()]


def due(out: Iteration, run: Run) -> list[str]:
    """Of those, the tasks that can be made: none where the weights were removed (keep)."""
    return [] if out.removed.exists() else missing(out, run)


def results(out: Iteration, run: Run) -> dict[str, Any]:
    """The parts of eval.json that benchmarks make: `benchmarks`, `average`, `harness`.

    Tasks without a result are left out. The average is there once every task with a `metric` has
    it; with n of them its standard error is sqrt(sum se^2) / n, null where one is unknown.
    """
    done = {task: read_json(file) for task, file in files(out, run).items() if file.exists()}
    if not done:
        return {}
    harness = next(iter(done.values()))["harness"]
    parts: dict[str, Any] = {
        "benchmarks": {
            task: {name: value for name, value in result.items() if name not in ("task", "harness")}
            for task, result in done.items()
        }
    }
    of = {name: task.metric for name, task in tasks(run.evals).items() if task.metric is not None}
    if of and all(task in done and of[task] in done[task]["metrics"] for task in of):
        parts["average"] = {
            **average([done[task]["metrics"][metric] for task, metric in of.items()]),
            "of": of,
        }
    return parts | {
        "harness": {name: harness[name] for name in ("lm_eval", "template", "limit", "dtype")}
    }


def average(numbers: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of values of independent tasks, sqrt(sum se^2) / n as its error."""
    n = len(numbers)
    values = [number["value"] for number in numbers if number["value"] is not None]
    errors = [number["stderr"] for number in numbers if number["stderr"] is not None]
    stderr = math.sqrt(sum(e * e for e in errors)) / n if len(errors) == n else None
    return {"value": sum(values) / n, "stderr": stderr}


def files(out: Iteration, run: Run) -> dict[str, Path]:
    """Task -> where its result is, or will be; named by what decides it beside the weights.

    data_root counts by its path: another folder is other data, and a data set more in it must not
    redo the tasks of the rest. tasks_dir counts by what its YAML and Python files say, wherever it
    is, and by the sizes of its other files.
    """
    evals, wanted = run.evals, tasks(run.evals)
    facts = {
        "limit": evals.limit,
        **rendering(run),
        "batch_size": evals.batch_size,
        "max_length": evals.max_length,
        "dtype": run.dtype,
        "lm_eval": version("lm_eval") if wanted else None,
        "data_root": places(evals)["data_root"],
        "tasks_dir": None if evals.tasks_dir is None else _contents(path(evals.tasks_dir)),
    }
    return {
        name: out.benchmark(name, digest(facts | {"task": name, "shots": task.shots}))
        for name, task in wanted.items()
    }


def places(evals: EvalsConfig) -> dict[str, str | None]:
    """Where tasks and data are; absolute, since the harness changes its folder."""
    return {
        "data_root": None if evals.data_root is None else str(path(evals.data_root)),
        "tasks_dir": None if evals.tasks_dir is None else str(path(evals.tasks_dir)),
    }


def rendering(run: Run) -> dict[str, Any]:
    """The template around a prompt, and its arguments where there are any."""
    if run.evals.template == "none":
        return {"template": "none"}
    arguments = run.model.template_args
    return {"template": run.model.template} | ({"template_args": arguments} if arguments else {})


def path(place: str) -> Path:
    return Path(place).expanduser().absolute()


def _contents(folder: Path) -> dict[str, str | int]:
    return {
        str(file.relative_to(folder)): file_digest(file)
        if file.suffix in (".yaml", ".py")
        else file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix != ".pyc"
    }


class _TaskFile(yaml.SafeLoader):
    """YAML of lm-eval, whose `!function module.name` needs not be imported here."""


_TaskFile.add_multi_constructor("!", lambda loader, suffix, node: None)
