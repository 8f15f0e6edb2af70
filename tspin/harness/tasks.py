"""Which tasks of lm-eval are meant, and what keeps them from being built."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from tspin.harness.numbers import ORIGINAL, parses_latex
from tspin.tools.log import kind_and_line
from tspin.tools.spelling import unknown

STOCK = Path(lm_eval.tasks.__file__).parent
OURS = Path(__file__).with_name("own_tasks")


def task_manager(tasks: Iterable[str], tasks_dir: str | None) -> TaskManager:
    """An index of the tasks that are asked for.

    Of lm-eval's own only the folders they are named after: reading all of it takes 10 s or more, so
    that is for the names (or members of a group) found nowhere else.
    """
    own = [tasks_dir] if tasks_dir is not None else []
    stock = sorted({folder for task in tasks if (folder := _stock_folder(task)) is not None})
    manager = TaskManager(include_path=[*stock, *own], include_defaults=False)
    if all(_is_whole(manager, task) for task in tasks):
        return manager
    return TaskManager(include_path=own)


def problems(
    manager: TaskManager, task: str, wanted: Mapping[str, Any], *, data_root: str | None
) -> list[str]:
    """What keeps the task from being built, one sentence each. Builds it, downloads included."""
    if task not in manager.task_index:
        near = difflib.get_close_matches(task, manager.all_tasks, n=5)  # of more than 10,000
        return [unknown(f"task {task}", task, near) if near else f"lm-eval has no task {task}"]
    leaves = [manager.task_index[leaf].cfg or {} for leaf in _leaves(manager, task)]
    paths = dict.fromkeys(str(cfg["dataset_path"]) for cfg in leaves if cfg.get("dataset_path"))
    if data_root is not None:
        hub = [path for path in paths if path.count("/") == 1]  # others are formats: json, csv
        lacking = [path for path in hub if not (Path(data_root) / path).is_dir()]
        if lacking:
            return [
                f"{task}: no data set {path} in evals.data_root; it should be in "
                f"{Path(data_root) / path} ({_download(path, data_root)})"
                for path in lacking
            ]
    if any("ifeval" in str(cfg) for cfg in leaves) and not _has_punkt():
        # Importing the task would try to download it, for 12 s where there is no network.
        return [f"{task}: nltk's punkt_tab is missing (python -m nltk.downloader punkt_tab)"]
    try:
        built = manager.load([task])
    except Exception as error:
        return [f"{task}: {reason(error, tuple(paths))}"]
    reasons = []
    zero = [name for name, leaf in built["tasks"].items() if leaf.get_config("num_fewshot") == 0]
    if wanted["shots"] and zero:
        reasons.append(
            f"evals.tasks.{task}.shots={wanted['shots']}, but lm-eval defines {zero[0]} without "
            "examples; use 0 or null"
        )
    if wanted["metric"] is not None and wanted["metric"] not in (names := _metrics(built, task)):
        metric = wanted["metric"]
        reasons.append(unknown(f"metric evals.tasks.{task}.metric={metric}", metric, names))
    return reasons


def reason(error: BaseException, paths: Sequence[str]) -> str:
    """Why a task could not be built, with the way out.

    paths  data sets the task reads; loading stops at the first that fails
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    path = next((path for path in paths if path in str(error)), paths[0] if paths else "")
    if any(isinstance(e, ImportError) for e in chain):
        return f"{kind_and_line(chain[-1])} (pip install -e '.[evals]')"
    if "gated dataset" in str(error):
        return (
            f"the data set {path} is gated: accept its terms at "
            f"https://huggingface.co/datasets/{path} and log in (hf auth login)"
        )
    if isinstance(error, ConnectionError):
        return (
            f"the data set {path} is neither in reach on the hub nor in the local cache; connect, "
            f"or give evals.data_root=FOLDER ({_download(path, 'FOLDER')})"
        )
    return kind_and_line(error)


def _stock_folder(task: str) -> Path | None:
    """The folder of lm-eval, or of ours, that bears the longest beginning of the name: mmlu for
    mmlu_anatomy."""
    parts = task.split("_")
    names = ["_".join(parts[:n]) for n in range(len(parts), 0, -1)]
    folders = (home / name for name in names for home in (STOCK, OURS))
    return next((folder for folder in folders if folder.is_dir()), None)


def _members(manager: TaskManager, name: str) -> list[str]:
    """What a group or a tag consists of, by name; nothing for a task. Inline members have none."""
    entry = manager.task_index[name]
    listed = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else None
    if isinstance(listed, list):
        names = [x if isinstance(x, str) else x.get("task", x.get("group")) for x in listed]
        return [name for name in names if isinstance(name, str)]
    return sorted(entry.tags) if entry.kind.name == "TAG" else []


def _is_whole(manager: TaskManager, name: str) -> bool:
    return name in manager.task_index and all(
        _is_whole(manager, member) for member in _members(manager, name)
    )


def _leaves(manager: TaskManager, name: str) -> Iterator[str]:
    """The tasks that have data, in order."""
    if name in manager.task_index:
        members = _members(manager, name)
        if manager.task_index[name].kind.name in ("TASK", "PY_TASK"):
            yield name
        for member in members:
            yield from _leaves(manager, member)


def _metrics(built: Mapping[str, Any], task: str) -> list[str]:
    """METRIC,FILTER that an evaluation of the task will report."""
    names: set[str] = set()
    if task in built["tasks"]:
        leaves, metrics = [built["tasks"][task]], None
    elif task in built["groups"]:
        group = built["groups"][task]
        metrics = {entry.metric for entry in group.aggregate_metric_list or []}
        leaves = group.get_all_tasks()
    else:
        return []  # a tag: tasks without a number in common
    for leaf in leaves:
        filters = [f["name"] for f in leaf.get_config("filter_list") or [{"name": "none"}]]
        own = set(leaf.aggregation())
        if metrics is not None:
            own &= metrics
        elif "inst_level_strict_acc" in own:
            own |= {"strict_acc_mean", "loose_acc_mean"}
        if ORIGINAL in own and not parses_latex():
            own.remove(ORIGINAL)
        names |= {f"{metric},{name}" for metric in own for name in filters}
    return sorted(names)


def _has_punkt() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


def _download(path: str, folder: str) -> str:
    return f"hf download --repo-type dataset {path} --local-dir {folder}/{path}"
