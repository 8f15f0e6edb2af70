"""Stage: benchmarks of lm-eval, parent side: the process that makes what is missing.

Imports neither torch nor lm_eval: tspin.harness does, in a process of its own, so that a training
process keeps its random state, its models' mode and its parser versions. One file per task: what is
there is not made again.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from tspin.config.run import EvalsConfig, Run
from tspin.runs.artifacts import Iteration, RunDir, day_of
from tspin.runs.benchmarks import files, path, places, rendering, tasks
from tspin.tools import hub
from tspin.tools.child import Child, as_here, started
from tspin.tools.files import digest
from tspin.tools.terminal import progress

log = logging.getLogger("tspin")
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
        if value is not None and not path(value).is_dir():
            problems.append(f"evals.{name}={value} is no folder")
    if not problems:
        wanted = {name: asdict(task) for name, task in tasks(evals).items()}
        request = places(evals) | {"policy": None, "tasks": wanted}
        if (key := digest(request)) not in _checked:
            log.info("evals=%s: building the tasks, fetching what they lack", evals.name)
            problems = _problems(request)
            if not problems:
                _checked.add(key)
    if problems:
        raise ValueError("; ".join(problems))


def benchmark(checkpoint: Path, out: Iteration, run: Run, *, label: str) -> None:
    """Evaluates the policy in `checkpoint` on the tasks that have no result in `out`.

    Raises ValueError with the task, what the harness said last and the path of its log; tasks that
    were done before keep their results.
    """
    results = files(out, run)
    todo = [task for task, file in results.items() if not file.exists()]
    if not todo:
        return
    evals, wanted = run.evals, tasks(run.evals)
    request = {
        **places(evals),
        "policy": str(checkpoint.absolute()),
        "tasks": {
            task: asdict(wanted[task]) | {"file": str(results[task].absolute())} for task in todo
        },
        **rendering(run),
        "day": day_of(RunDir(run.folder)),
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
        out.benchmarks_log.open("ab") as output,
        progress(len(results), label, "task", initial=len(results) - len(todo)) as bar,
        _harness(request, output) as child,
    ):
        for message in child.messages():
            if "started" in message:
                task = message["started"]
                bar.update(0, task=task)
            elif "finished" in message:
                bar.update(1)
            else:
                failure = message["failed"]
        if (death := child.death("the harness")) is not None:
            hint = ": try a smaller evals.batch_size" if "memory" in death else ""
            raise ValueError(
                f"benchmark {task}: {failure or death + hint} (the log is {out.benchmarks_log}; "
                "the same command goes on with this task)"
            )


# --- the process ---------------------------------------------------------------------------------


@contextmanager
def _harness(request: dict[str, Any], log: IO[bytes]) -> Iterator[Child]:
    """A harness process that works on a request; it ends with this block."""
    environment = as_here() | {
        "TQDM_MININTERVAL": "60",  # seconds between two lines of a bar in the log
        "TOKENIZERS_PARALLELISM": "false",
    }
    if request["data_root"] is not None or not hub.is_reachable():  # it does not wait for the hub
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if "compute" in request:
        device = request["compute"]["device"]
        if (visible := _visible(device, os.environ)) is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        # The one device that it sees is the first, whatever it is called here.
        request |= {"compute": request["compute"] | {"device": device.partition(":")[0]}}
    command = [sys.executable, "-m", "tspin.harness"]
    with started(command, log=log, environment=environment) as child:
        child.send(request)
        yield child


def _visible(device: str, environment: Mapping[str, str]) -> str | None:
    """The device of this process, as CUDA_VISIBLE_DEVICES names it; None where it is the CPU.

    device  compute.device: without an index it is the one that accelerate gives to a rank
    """
    if device == "cpu":
        return None
    index = int(device.partition(":")[2] or environment.get("LOCAL_RANK", "0"))
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return str(index)
    names = environment["CUDA_VISIBLE_DEVICES"].split(",")
    return names[index % len(names)]


def _problems(request: dict[str, Any]) -> list[str]:
    problems = []
    with tempfile.TemporaryFile() as log, _harness(request, log) as child:
        for message in child.messages():
            if "started" not in message:
                problems.append(message.get("problem") or message["failed"])
        death = child.death("the harness")
        if death is not None and not problems:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            problems.append(f"lm-eval: {lines[-1] if lines else death}")
    return problems
