"""Benchmarks of lm-eval, child side: `python -m tspin.harness REQUEST`. No other module imports it.

REQUEST is the JSON that tspin.benchmark composes. Each task is evaluated as if it were alone and
its result file is written when it is done, so that its numbers depend on no other task and a killed
process loses one task at most. Messages to the parent are JSON lines on standard output; whatever
libraries print goes to standard error, the log. The process ends when its standard input does: with
the parent, however that ends.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import logging
import math
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any, TextIO

import datasets
import lm_eval.tasks
import numpy as np
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tspin import model
from tspin.config import ComputeConfig, unknown
from tspin.files import write_json
from tspin.tokens import TEXT_TEMPLATES, Renderer

STOCK = Path(lm_eval.tasks.__file__).parent
FEWSHOT_SEED = 1234  # lm-eval's own four seeds: 0, 1234, 1234, 1234
ORIGINAL = "exact_match_original"  # of the MATH tasks, by sympy's LaTeX parser

Send = Callable[[dict[str, Any]], None]


def main(request: dict[str, Any], send: Send) -> None:
    """Checks that the request's tasks can be built, or evaluates them where it has a checkpoint."""
    # A cached `process_docs` is that of the first process ever: GPQA's shuffled answers would be a
    # function of this machine's history instead of the seed.
    datasets.disable_caching()
    if request["data_root"] is not None:
        os.chdir(request["data_root"])  # OWNER/DATASET is then a folder, which `datasets` prefers
    manager = task_manager(request["tasks"], request["tasks_dir"])
    if request["policy"] is None:
        for task, wanted in request["tasks"].items():
            send({"started": task})
            for problem in problems(manager, task, wanted, data_root=request["data_root"]):
                send({"problem": problem})
        return
    if request["compute"]["threads"] is not None:
        torch.set_num_threads(request["compute"]["threads"])
    lm = language_model(request)
    for task, wanted in request["tasks"].items():
        send({"started": task})
        result = run(lm, manager, task, wanted["shots"], request)
        write_json(Path(wanted["file"]), result)
        send({"finished": task})


# --- what to evaluate ----------------------------------------------------------------------------


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
    found = []
    zero = [name for name, leaf in built["tasks"].items() if leaf.get_config("num_fewshot") == 0]
    if wanted["shots"] and zero:
        found.append(
            f"evals.tasks.{task}.shots={wanted['shots']}, but lm-eval defines {zero[0]} without "
            "examples; use 0 or null"
        )
    if wanted["metric"] is not None and wanted["metric"] not in (names := _metrics(built, task)):
        metric = wanted["metric"]
        found.append(unknown(f"metric evals.tasks.{task}.metric={metric}", metric, names))
    return found


def reason(error: BaseException, paths: Sequence[str]) -> str:
    """Why a task could not be built, with the way out.

    paths  data sets the task reads; loading stops at the first that fails
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    said = first_line(error)
    path = next((path for path in paths if path in str(error)), paths[0] if paths else "")
    if any(isinstance(e, ImportError) for e in chain):
        return f"{first_line(chain[-1])} (pip install -e '.[evals]')"
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
    return said


def first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _stock_folder(task: str) -> Path | None:
    """The folder of lm-eval that bears the longest beginning of the name: mmlu for mmlu_anatomy."""
    parts = task.split("_")
    folders = (STOCK / "_".join(parts[:n]) for n in range(len(parts), 0, -1))
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
        if ORIGINAL in own and not _parses_latex():
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


# --- the evaluation ------------------------------------------------------------------------------


class TrainedTemplate(HFLM):
    """Prompts inside the run's text template, as the ids that training puts together.

    lm-eval's own chat templates join prompt and answer as one text; "### Response:" followed by "A"
    is then another token than the " A" that the policy has seen.
    """

    def __init__(self, *, template: str, **options: Any) -> None:
        super().__init__(**options)
        self.template = template
        self.renderer = Renderer(self.tokenizer, template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """One user turn (a system turn before it, the answer's first words behind it) as text."""
        turns = {turn["role"]: turn["content"] for turn in chat_history}
        template = TEXT_TEMPLATES[self.template]
        text = template.text.format(prompt=turns["user"])
        if "system" in turns:
            text = f"{turns['system'].strip()}\n\n{text}"
        return text + template.separator + turns["assistant"] if "assistant" in turns else text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        ids = self.renderer.response_ids(continuation)
        return self.tok_encode(context), ids[:-1]  # without EOS: an answer may go on


class Truncations(logging.Filter):
    """Counts lm-eval's warnings that an input lost its beginning; lets the first one through."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if "runcat" not in record.getMessage():  # "Truncating 7 tokens", "Left truncation applied"
            return True
        self.count += 1
        return self.count == 1


def language_model(request: Mapping[str, Any]) -> HFLM:
    """The checkpoint as lm-eval loads it, in the run's dtype and on its device."""
    compute = ComputeConfig(**request["compute"])
    where, autocast = model.device(compute)
    dtype = "float64" if compute.dtype == "float64" else "float32"
    options = {
        "pretrained": request["policy"],
        "device": str(where),
        "dtype": dtype if autocast is None else str(autocast).removeprefix("torch."),
        "batch_size": request["batch_size"],
        "max_length": request["max_length"],
    }
    if request["template"] in ("none", "chat"):
        return HFLM(**options)
    return TrainedTemplate(template=request["template"], **options)


def run(
    lm: HFLM, manager: TaskManager, task: str, shots: int | None, request: Mapping[str, Any]
) -> dict[str, Any]:
    """One task or group, alone: every metric, the number of documents, examples and seconds.

    A policy is trained on single turns: with a template the examples stand in the one user turn.
    """
    started = time.monotonic()
    seed_everything()
    built = manager.load([task])
    seed_everything()  # the first documents made are those of a process that built nothing else
    for leaf in built["tasks"].values():
        own = leaf.get_config("num_fewshot")
        # As lm-eval does: a task defined with 0 examples keeps 0.
        leaf.set_config("num_fewshot", own or 0 if shots is None or own == 0 else shots)
        leaf.set_fewshot_seed(FEWSHOT_SEED)
        if (process := leaf.get_config("process_docs")) is not None:
            leaf.set_config("process_docs", once(process))
            _ = leaf.eval_docs  # made now, in the tasks' order, before anything else draws
    truncations = Truncations()
    logger = logging.getLogger("lm_eval.models.huggingface")
    logger.addFilter(truncations)
    try:
        found = evaluate(
            lm=lm,
            task_dict=built,
            limit=request["limit"],
            apply_chat_template=request["template"] != "none",
            fewshot_as_multiturn=False,
        )
    finally:
        logger.removeFilter(truncations)
    return {
        "task": task,
        **tabulate(found, built, task),
        **({"truncated": truncations.count} if truncations.count else {}),
        "seconds": round(time.monotonic() - started, 3),
        "harness": {
            "lm_eval": version("lm_eval"),
            "template": request["template"],
            "limit": request["limit"],
            "dtype": str(lm.model.dtype).removeprefix("torch."),
            "device": str(lm.device.type),
            "batch_size": request["batch_size"],
            "max_length": lm.max_length,
        },
    }


def seed_everything() -> None:
    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)
    with contextlib.suppress(ImportError):  # IFEval's, with a generator of its own
        from langdetect import DetectorFactory

        DetectorFactory.seed = 0


def once(process: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`process_docs`, called once per split.

    lm-eval calls it again for every look at the documents: answers that it shuffles (GPQA) would
    be scored in another order than they were asked in.
    """
    made: dict[int, Any] = {}

    @functools.wraps(process)
    def remembered(split: Any) -> Any:
        if id(split) not in made:
            made[id(split)] = process(split)
        return made[id(split)]

    return remembered


# --- the numbers ---------------------------------------------------------------------------------


def tabulate(found: Mapping[str, Any], built: Mapping[str, Any], task: str) -> dict[str, Any]:
    """lm-eval's results of one task or group in the shape of eval.json, those of its parts too."""
    leaves = {name: [name] for name in built["tasks"]}
    for name, group in built["groups"].items():
        leaves[name] = [leaf.task_name for leaf in group.get_all_tasks()]
    leaves.setdefault(task, list(built["tasks"]))  # a tag: tasks without a number in common
    left_out: dict[str, str] = {}
    entries = {name: _entry(found, name, leaves[name], left_out) for name in leaves}
    return {
        **entries.pop(task),
        "subtasks": entries,
        **({"left_out": left_out} if left_out else {}),
    }


def _entry(
    found: Mapping[str, Any], name: str, leaves: Sequence[str], left_out: dict[str, str]
) -> dict[str, Any]:
    metrics: dict[str, dict[str, float | None]] = {}
    row = found["results"].get(name, {})
    for key, value in row.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        if metric == ORIGINAL and not _parses_latex():
            left_out[key] = (
                "sympy's LaTeX parser needs antlr4-python3-runtime 4.11, Hydra 1.3 needs 4.9: "
                "lm-eval would count every answer that is not the same text as wrong"
            )
        elif (number := _number(value)) is None:
            left_out[key] = f"{value!r} is no finite number"
        else:
            metrics[key] = {"value": number, "stderr": _number(row.get(f"{metric}_stderr,{kind}"))}
    samples = found["samples"].get(name, [])
    if samples and "inst_level_strict_acc" in samples[0]:
        metrics |= instructions_followed(samples)
    shots = {found["n-shot"][leaf] for leaf in leaves}
    said = found["versions"].get(name)
    return {
        "num_fewshot": shots.pop() if len(shots) == 1 else None,
        "n": sum(found["n-samples"][leaf]["effective"] for leaf in leaves),
        "version": None if said == "N/A" else said,
        "metrics": metrics,
    }


def instructions_followed(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What IFEval lacks in lm-eval: the error of instruction-level accuracy, and the mean of both.

    With p_i in {0, 1} whether prompt i is followed whole, s_i of its m_i instructions followed:

        P = mean p_i,  R = sum s_i / sum m_i,  mean = (P + R) / 2    (Open LLM Leaderboard v2)

    Prompts are independent, the instructions of one are not: R is linearised as a ratio over
    prompts, e_i = (s_i - R m_i) / mean(m), and Var = sum d_i^2 / (n (n - 1)) with d_i = e_i for R,
    (p_i - P + e_i) / 2 for the mean.
    """
    n = len(samples)
    metrics: dict[str, dict[str, Any]] = {}
    for level in ("strict", "loose"):
        whole = [float(sample[f"prompt_level_{level}_acc"]) for sample in samples]
        each = [sample[f"inst_level_{level}_acc"] for sample in samples]
        total = sum(map(len, each))
        prompt_acc, inst_acc = sum(whole) / n, sum(map(sum, each)) / total
        ratio = [(sum(hits) - inst_acc * len(hits)) * n / total for hits in each]
        both = [(p - prompt_acc + e) / 2 for p, e in zip(whole, ratio, strict=True)]
        for name, value, deviations in [
            (f"inst_level_{level}_acc", inst_acc, ratio),
            (f"{level}_acc_mean", (prompt_acc + inst_acc) / 2, both),
        ]:
            squares = sum(d * d for d in deviations)
            stderr = math.sqrt(squares / (n * (n - 1))) if n > 1 else None
            metrics[f"{name},none"] = {"value": value, "stderr": stderr}
    return metrics


def _number(value: Any) -> float | None:
    """A finite float, or None for what lm-eval writes where there is none ("N/A")."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


@functools.cache
def _parses_latex() -> bool:
    from sympy.parsing.latex import parse_latex

    try:
        parse_latex(r"\frac{1}{2}")
    except ImportError:
        return False
    return True


# --- the process ---------------------------------------------------------------------------------


def _die_with_parent() -> None:
    """The parent holds the other end of standard input and writes nothing: its end is the end."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # sys.stdin itself has a lock that an orderly exit needs
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _claim_stdout() -> TextIO:
    """Standard output for messages alone: what anyone else prints goes to standard error."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return messages


if __name__ == "__main__":
    stream = _claim_stdout()
    _die_with_parent()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)

    def tell(message: dict[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    try:
        main(json.loads(sys.argv[1]), tell)
    except Exception as failure:
        traceback.print_exc()
        tell({"failed": first_line(failure)})
        sys.exit(1)
