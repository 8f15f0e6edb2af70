"""Benchmarks of lm-eval, parent side: what is missing, the process that makes it, what it found.

Imports neither torch nor lm_eval: tspin.harness does, in a process of its own, so that a training
process keeps its random state, its models' mode and its parser versions. One file per task: what is
there is not made again.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import yaml

from tspin.config.run import EvalsConfig, EvalTask, Run
from tspin.runs.artifacts import Iteration
from tspin.tools.files import digest, file_digest, read_json
from tspin.tools.terminal import progress

log = logging.getLogger("tspin")
HUB_SECONDS = 5.0  # an unreachable hub should be known now, not after the client's retries
INSTALL = "pip install -e '.[evals]'"

_checked: set[str] = set()  # requests known to be good: a sweep asks once for all of its points


def check(evals: EvalsConfig) -> None:
    """ValueError naming everything the benchmarks lack, before a run starts.

    Builds every task in a process of its own, so that downloads happen here.
    """
    if not evals.tasks and evals.tasks_dir is None:
        return
    problems = []
    if importlib.util.find_spec("lm_eval") is None:
        problems.append(f"evals={evals.name} needs lm-eval, which is not installed: {INSTALL}")
    for name, value in (("data_root", evals.data_root), ("tasks_dir", evals.tasks_dir)):
        if value is not None and not _path(value).is_dir():
            problems.append(f"evals.{name}={value} is no folder")
    if not problems:
        wanted = {task: asdict(told) for task, told in tasks(evals).items()}
        request = _places(evals) | {"policy": None, "tasks": wanted}
        if (key := digest(request)) not in _checked:
            log.info("evals=%s: building the tasks, fetching what they lack", evals.name)
            problems = _problems(request)
            if not problems:
                _checked.add(key)
    if problems:
        raise ValueError("; ".join(problems))


def tasks(evals: EvalsConfig) -> dict[str, EvalTask]:
    """The tasks that are meant: those named, or else all of tasks_dir (a group for its members)."""
    if evals.tasks or evals.tasks_dir is None:
        return evals.tasks
    names: list[str] = []
    members: set[str] = set()
    for file in sorted(_path(evals.tasks_dir).rglob("*.yaml")):
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
    files = _files(out, run)
    return [task for task, file in files.items() if not file.exists()]


def due(out: Iteration, run: Run) -> list[str]:
    """Of those, the tasks that can be made: none where the weights were removed (keep)."""
    return [] if out.removed.exists() else missing(out, run)


def benchmark(checkpoint: Path, out: Iteration, run: Run, *, label: str) -> None:
    """Evaluates the policy in `checkpoint` on the tasks that have no result in `out`.

    Raises ValueError with the task, what the harness said last and the path of its log; tasks that
    were done before keep their results.
    """
    files = _files(out, run)
    todo = [task for task, file in files.items() if not file.exists()]
    if not todo:
        return
    evals, wanted = run.evals, tasks(run.evals)
    request = {
        **_places(evals),
        "policy": str(checkpoint.absolute()),
        "tasks": {
            task: asdict(wanted[task]) | {"file": str(files[task].absolute())} for task in todo
        },
        "template": _template(run),
        "limit": evals.limit,
        "batch_size": evals.batch_size,
        "max_length": evals.max_length,
        "compute": asdict(run.compute),
        "precision": run.optim.precision,
        "quantize": run.model.quantize,
    }
    out.benchmarks.mkdir(parents=True, exist_ok=True)
    task, failure = todo[0], None
    with (
        out.benchmarks_log.open("ab") as said,
        progress(len(files), label, "task", initial=len(files) - len(todo)) as bar,
    ):
        with _harness(request, said) as (process, messages):
            for message in messages:
                if "started" in message:
                    task = message["started"]
                    bar.update(0, task=task)
                elif "finished" in message:
                    bar.update(1)
                else:
                    failure = message["failed"]
            status = process.wait()
        if status:
            raise ValueError(
                f"benchmark {task}: {failure or _death(status)} (the log is {out.benchmarks_log}; "
                "the same command goes on with this task)"
            )


def results(out: Iteration, run: Run) -> dict[str, Any]:
    """The parts of eval.json that benchmarks make: `benchmarks`, `average`, `harness`.

    Tasks without a result are left out. The average is there once every task with a `metric` has
    it; with n of them its standard error is sqrt(sum se^2) / n, null where one is unknown.
    """
    found = {task: read_json(file) for task, file in _files(out, run).items() if file.exists()}
    if not found:
        return {}
    harness = next(iter(found.values()))["harness"]
    parts: dict[str, Any] = {
        "benchmarks": {
            task: {name: value for name, value in result.items() if name not in ("task", "harness")}
            for task, result in found.items()
        }
    }
    of = {task: told.metric for task, told in tasks(run.evals).items() if told.metric is not None}
    if of and all(task in found and of[task] in found[task]["metrics"] for task in of):
        parts["average"] = {
            **average([found[task]["metrics"][metric] for task, metric in of.items()]),
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


# --- the process ---------------------------------------------------------------------------------


@contextmanager
def _harness(
    request: dict[str, Any], said: IO[bytes]
) -> Iterator[tuple[subprocess.Popen[str], Iterator[dict[str, Any]]]]:
    """A harness process and the messages it sends; it ends with this block.

    It also ends when this process is killed: it watches the pipe that is its standard input.
    said  file for everything that libraries print
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tspin.harness", json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        env=_environment(offline=request["data_root"] is not None or not _hub_is_there()),
        start_new_session=True,  # Ctrl-C is ours to act on
    ) as process:
        try:
            assert process.stdout is not None
            yield process, map(json.loads, process.stdout)
        finally:
            process.kill()


def _problems(request: dict[str, Any]) -> list[str]:
    found = []
    with tempfile.TemporaryFile() as said:
        with _harness(request, said) as (process, messages):
            for message in messages:
                if "started" not in message:
                    found.append(message.get("problem") or message["failed"])
            status = process.wait()
        if status and not found:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            found.append(f"lm-eval: {lines[-1] if lines else _death(status)}")
    return found


def _environment(*, offline: bool) -> dict[str, str]:
    """Of the harness: where the hub is out of reach, it does not wait for it."""
    ours, theirs = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, [ours, theirs])),
        "TQDM_MININTERVAL": "60",  # seconds between two lines of a bar in the log
        "TOKENIZERS_PARALLELISM": "false",
    }
    if offline:
        settings |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return os.environ | settings


def _hub_is_there() -> bool:
    """Without it `datasets` retries for half a minute per data set before it asks its cache."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # the HTTP client, and with it its errors, changes by version
        return False
    return True


def _death(status: int) -> str:
    if status >= 0:
        return f"the harness ended with status {status}"
    name = signal.Signals(-status).name
    hint = ", as when memory runs out: try a smaller evals.batch_size" if name == "SIGKILL" else ""
    return f"the harness was ended by {name}{hint}"


# --- what is asked for ---------------------------------------------------------------------------


def _places(evals: EvalsConfig) -> dict[str, str | None]:
    """Where tasks and data are; absolute, since the harness changes its folder."""
    return {
        "data_root": None if evals.data_root is None else str(_path(evals.data_root)),
        "tasks_dir": None if evals.tasks_dir is None else str(_path(evals.tasks_dir)),
    }


def _template(run: Run) -> str:
    return run.model.template if run.evals.template == "run" else "none"


def _files(out: Iteration, run: Run) -> dict[str, Path]:
    """Task -> where its result is, or will be; named by what decides it beside the weights.

    data_root counts by its path: another folder is other data, and a data set more in it must not
    redo the tasks of the rest. tasks_dir counts by what its YAML and Python files say, wherever it
    is, and by the sizes of its other files.
    """
    evals, wanted = run.evals, tasks(run.evals)
    facts = {
        "limit": evals.limit,
        "template": _template(run),
        "batch_size": evals.batch_size,
        "max_length": evals.max_length,
        "dtype": run.dtype,
        "lm_eval": version("lm_eval") if wanted else None,
        "data_root": _places(evals)["data_root"],
        "tasks_dir": None if evals.tasks_dir is None else _contents(_path(evals.tasks_dir)),
    }
    return {
        task: out.benchmark(task, digest(facts | {"task": task, "shots": told.shots}))
        for task, told in wanted.items()
    }


def _contents(folder: Path) -> dict[str, str | int]:
    return {
        str(file.relative_to(folder)): file_digest(file)
        if file.suffix in (".yaml", ".py")
        else file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix != ".pyc"
    }


def _path(place: str) -> Path:
    return Path(place).expanduser().absolute()


class _TaskFile(yaml.SafeLoader):
    """YAML of lm-eval, whose `!function module.name` needs not be imported here."""


_TaskFile.add_multi_constructor("!", lambda loader, suffix, node: None)
