"""One reader of run folders: which runs there are, what compares with what, and their numbers.

Frames are read when asked for and kept. A file that cannot be read becomes a problem, one line
"FILE: what", and the rest goes on; only a folder without any run is an error. No torch.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from tspin.config import older
from tspin.config.identity import NOT_OF_METHOD, said_once
from tspin.runs.artifacts import SCORES, SHARED, Iteration, RunDir, run_dirs
from tspin.tools.files import flatten, read_json

log = logging.getLogger("tspin")
T = TypeVar("T")

BASE = -1  # the "iteration" of the initial policy; theta_t+1, what iteration t leaves, is row t
CELLS = ("both", "reward_only", "logp_only", "neither")
PARTS = ("heldout", "benchmarks", "average", "harness")  # what an evaluation consists of
REQUIRED = ("name", "seed", "model.name", "data.name", "loss.name", "loss.label")
FAST_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it was built in

UNUSED = {  # coefficients that an objective does not contain
    "sft": ("coef.",),
    "spin": ("coef.alpha", "coef.beta"),
    "tspin": ("coef.lambda",),
    "tspin_ref": ("coef.lambda",),
    "wo_ha": ("coef.beta", "coef.lambda"),
}


class Setting(NamedTuple):
    """What runs must share to be compared."""

    model: str
    data: str
    split: str  # validation | test: which held-out prompts

    def __str__(self) -> str:
        choosing = "" if self.split == "test" else f" ({self.split})"
        return f"{self.model} on {self.data}{choosing}"

    @property
    def slug(self) -> str:
        return "-".join((self.model, self.data) + (() if self.split == "test" else (self.split,)))


@dataclass(frozen=True)
class Run:
    """The facts of one run, from its configuration."""

    folder: RunDir
    values: Mapping[str, Any]  # flattened: "optim.lr" -> 3e-5
    variant: Mapping[str, Any] = field(default_factory=dict)  # where it differs from the main one
    label: str = ""  # as tables print it, variant included

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def loss(self) -> str:
        return str(self.values["loss.name"])

    @property
    def setting(self) -> Setting:
        split = self.values.get("data.eval_split", "test")
        return Setting(self.values["model.name"], self.values["data.name"], split)

    @property
    def is_main(self) -> bool:
        """Whether it is its objective as configured by default, not a variant of it."""
        return not self.variant

    def differs_only_in(self, *keys: str) -> bool:
        return set(self.variant) <= set(keys)

    def coefficient(self, key: str, t: int) -> float:
        """coef.KEY at iteration t; a list's last value repeats. NaN where there is none."""
        schedule = self.values.get(f"coef.{key}", math.nan)
        return float(
            schedule[min(t, len(schedule) - 1)] if isinstance(schedule, list) else schedule
        )

    def beta(self, t: int) -> float:
        """Weight of the historical term: 0 at iteration 0, where it has no gradient."""
        return self.coefficient("beta", t) if t and self.loss in ("tspin", "tspin_ref") else 0.0


class Runs:
    """Runs that were found, their problems, and frames of their numbers."""

    def __init__(self, runs: Sequence[Run], problems: list[str]) -> None:
        self.runs = list(runs)
        self.problems = problems
        self._kept: dict[tuple[Path, str], Any] = {}

    @classmethod
    def read(cls, folder: Path) -> Runs:
        """The runs of `folder`. ValueError where there is none that can be read."""
        if not folder.is_dir():
            raise ValueError(f"runs={folder} is no folder; give the runs_dir of your runs")
        found = cls([], [])
        runs = [run for it in run_dirs(folder) if (run := found._facts(it))]
        for other in sorted(folder.iterdir()):
            shared = other.name in (*SHARED, "multirun") or other.name.startswith(".")
            if other.is_dir() and not shared and not RunDir(other).config.exists():
                found._problem(other, "no configuration in it; no run, or one that never began")
        if not runs:
            why = "; ".join(found.problems) or "it is empty"
            raise ValueError(f"runs={folder} has no run ({why}); `python main.py` makes one")
        found.runs = found._without_twins(_labelled(runs, found._problem))
        for run in found.runs:
            found._unfinished(run)
        return found

    def where(self, keep: Callable[[Run], bool]) -> Runs:
        """Some of the runs; problems and what was read are shared."""
        part = Runs([run for run in self.runs if keep(run)], self.problems)
        part._kept = self._kept
        return part

    def sorted_by(self, order: Callable[[Sequence[str]], list[str]]) -> Runs:
        """The same, by `order` of their labels, then seed."""
        part = self.where(lambda run: True)
        ranks = {label: rank for rank, label in enumerate(order(self.labels()))}
        part.runs.sort(key=lambda run: (ranks[run.label], run.seed))
        return part

    def settings(self) -> list[Setting]:
        return sorted({run.setting for run in self.runs})

    def of(self, setting: Setting) -> Runs:
        return self.where(lambda run: run.setting == setting)

    def labels(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    # --- frames ---------------------------------------------------------------------------------

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        """One row per number of an evaluation.

        label, seed, run, iteration (BASE: initial policy), part (heldout | benchmark | subtask |
        average), task, metric, value, stderr, n, num_fewshot, version, of_average (whether the
        average is made of it). Values as evaluations hold them: shares, nats.
        """
        rows: list[dict[str, Any]] = []
        for run, t, out in self._evaluated():
            key = {"label": run.label, "seed": run.seed, "run": run.name, "iteration": t}
            read = self._once(out.evaluation, "numbers", lambda p: list(_numbers(_evaluated(p))))
            rows += [key | row for row in read or ()]
        columns = ["label", "seed", "run", "iteration", "part", "task", "metric", "value"]
        columns += ["stderr", "n", "num_fewshot", "version", "of_average"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({"iteration": int, "value": float, "stderr": float})

    @cached_property
    def contingency(self) -> pd.DataFrame:
        """label, seed, run, iteration, split, num_prompts, the four CELLS as shares, and the means
        `logps/ROLE`, `rewards/ROLE`, after each iteration; NaN where an objective has none."""
        rows = []
        for run in self.runs:
            for t in run.folder.iterations():
                path = run.folder.iteration(t).contingency
                read = self._once(path, "table", lambda p: list(_contingency(read_json(p))))
                key = {"label": run.label, "seed": run.seed, "run": run.name, "iteration": t}
                rows += [key | row for row in read or ()]
        first = ["label", "seed", "run", "iteration", "split", "num_prompts", *CELLS]
        others = sorted({key for row in rows for key in row} - set(first))
        return pd.DataFrame(rows, columns=[*first, *others])

    def steps(self, run: Run, t: int) -> pd.DataFrame:
        """One row per optimiser step of iteration t: progress (0..1) and its metrics. Empty where
        there is none."""
        path = run.folder.iteration(t).metrics
        kept = self._once(path, "steps", self._read_steps, missing_is_fine=True)
        return pd.DataFrame() if kept is None else kept

    def scores(self, run: Run, t: int) -> pd.DataFrame:
        """Log-probabilities and rewards after iteration t of the prompts that its readable samples
        show: a row per prompt and role."""
        shown = sorted({row["id"] for row in self.samples(run, t)})
        return self._parquet(run.folder.iteration(t).scores, SCORES.names, shown)

    def answers(self, run: Run, t: int) -> pd.DataFrame:
        """Held-out answers after iteration t (BASE: before the first): id, decoding, response,
        correct (None where no program can tell)."""
        return self._parquet(_iteration(run, t).answers, ["id", "decoding", "response", "correct"])

    def samples(self, run: Run, t: int) -> list[dict[str, Any]]:
        """Readable rows of iteration t: id, split, prompt, annotated, synthetic, proto."""
        path = run.folder.iteration(t).samples
        return self._once(path, "samples", self._read_jsonl, missing_is_fine=True) or []

    def num_pairs(self, run: Run) -> float:
        """Annotated pairs the run trains on; NaN where it does not say."""
        counts = self._once(run.folder.data, "counts", read_json, missing_is_fine=True) or {}
        number = counts.get("num_train", run.values.get("data.size"))
        return math.nan if number is None else float(number)

    def resume(self, run: Run) -> str:
        """The command that goes on with a run, as it was last given."""
        launches = self._once(run.folder.provenance, "launches", read_json, missing_is_fine=True)
        try:
            return "python " + shlex.join((launches or {})["launches"][-1]["command"])
        except (TypeError, KeyError, IndexError):
            return f"python main.py name={run.name} (and what it was started with)"

    # --- reading --------------------------------------------------------------------------------

    def _problem(self, path: Path, what: str) -> None:
        line = f"{path}: {what}"
        if line not in self.problems:
            self.problems.append(line)

    def _once(
        self, path: Path, what: str, read: Callable[[Path], T], *, missing_is_fine: bool = False
    ) -> T | None:
        """`read(path)`, kept; None and a problem where it fails."""
        key = (path, what)
        if key not in self._kept:
            self._kept[key] = None
            try:
                self._kept[key] = read(path)
            except FileNotFoundError:
                if not missing_is_fine:
                    self._problem(path, "is not there; the run is of an older layout")
            except KeyError as error:
                self._problem(path, f"has no {error}; it is of an older layout")
            except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
                self._problem(path, f"cannot be read ({_first_line(error)}); left out")
        return self._kept[key]

    def _facts(self, folder: RunDir) -> Run | None:
        def read(path: Path) -> Run:
            tree = yaml.load(path.read_text(encoding="utf-8"), FAST_YAML)
            values = said_once(flatten(older.current(tree)))
            for key in REQUIRED:
                values[key]  # KeyError: an older layout
            int(values["seed"])
            return Run(folder, values)

        return self._once(folder.config, "facts", read)

    def _without_twins(self, runs: Iterable[Run]) -> list[Run]:
        """One run per setting, method and seed: the one that went furthest.

        That a shorter one is its beginning, as where points of a sweep share iterations, is no
        problem; that it says something else would be.
        """
        kept: dict[tuple[Setting, str, int], Run] = {}
        for run in sorted(runs, key=lambda run: (-len(run.folder.iterations()), run.name)):
            first = kept.setdefault((run.setting, run.label, run.seed), run)
            if first is not run and not self._is_beginning(run, first):
                self._problem(
                    run.folder.config,
                    f"is the same method as {first.name} (seed {run.seed}), which is the one shown",
                )
        return sorted(kept.values(), key=lambda run: run.name)

    def _is_beginning(self, run: Run, other: Run) -> bool:
        """Whether every iteration of `run` is, by definition, that of `other`."""

        def key(run: Run, t: int) -> Any:
            done = self._once(run.folder.iteration(t).done, "facts", read_json) or {}
            return done.get("key")

        return all(
            (mine := key(run, t)) is not None and mine == key(other, t)
            for t in run.folder.iterations()
        )

    def _unfinished(self, run: Run) -> None:
        for t in range(int(run.values.get("selfplay.iterations", 0))):
            out = run.folder.iteration(t)
            if out.path.exists() and not out.done.exists():
                self._problem(out.path, f"not finished, left out; `{self.resume(run)}` goes on")

    def _evaluated(self) -> Iterator[tuple[Run, int, Iteration]]:
        for run in self.runs:
            for t in (BASE, *run.folder.iterations()):
                out = _iteration(run, t)
                if out.evaluation.exists():
                    yield run, t, out

    def _parquet(
        self, path: Path, columns: Sequence[str], ids: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Columns of a file, of all its rows or of those with these ids."""

        def read(path: Path) -> pd.DataFrame:
            there = pq.read_schema(path).names
            for name in columns:
                if name not in there:
                    raise KeyError(f"column {name}")
            keep = None if ids is None else pc.field("id").isin(pa.array(ids, pa.string()))
            return pq.read_table(path, columns=list(columns), filters=keep).to_pandas()

        kept = self._once(path, "rows", read, missing_is_fine=True)
        return pd.DataFrame(columns=list(columns)) if kept is None else kept

    def _read_steps(self, path: Path) -> pd.DataFrame:
        frame = pd.DataFrame(self._read_jsonl(path))
        for name in ("step", "progress", "loss"):
            frame[name]
        numbers = frame.astype(float)
        bad = numbers.index[numbers["loss"].isna()]
        if len(bad):
            first = int(numbers.loc[bad[0], "step"])
            self._problem(
                path,
                f"the loss is not finite in {len(bad)} of {len(numbers)} steps, first at step "
                f"{first}; those steps are left out",
            )
        return numbers.drop(index=bad)

    def _read_jsonl(self, path: Path) -> list[dict[str, Any]]:
        """Every whole line; numbers that are not finite become NaN."""
        rows = []
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    rows.append(json.loads(line, parse_constant=lambda _: math.nan))
                except ValueError:
                    self._problem(path, f"line {number} is no whole line of JSON; left out")
        return rows


def _labelled(runs: Sequence[Run], problem: Callable[[Path, str], None]) -> list[Run]:
    """The runs with their variants told apart: "T-SPIN", "T-SPIN alpha=0.3".

    In a setting the main variant of an objective is the one with the plain name
    MODEL-LOSS-DATA-sSEED, else the one with the shortest name.
    """
    labelled = []
    runs = sorted(runs, key=lambda run: (run.setting, run.loss))
    for _, group in itertools.groupby(runs, key=lambda run: (run.setting, run.loss)):
        members = list(group)
        main = min(members, key=lambda run: (not _plain(run), len(run.name), run.name))
        usual = _method(main)
        differing = {id(run): _difference(_method(run), usual) for run in members}
        keys = {key for found in differing.values() for key in found}
        words = [key.rsplit(".", 1)[-1] for key in keys]
        for run in members:
            variant = {
                key.rsplit(".", 1)[-1] if words.count(key.rsplit(".", 1)[-1]) == 1 else key: value
                for key, value in differing[id(run)].items()
            }
            said = " ".join(f"{key}={_short(value)}" for key, value in sorted(variant.items()))
            label = f"{main.values['loss.label']} {said}".strip()
            unsaid = [key for key in variant if key.rsplit(".", 1)[-1] not in run.name]
            if unsaid:
                problem(
                    run.folder.config,
                    f"labelled {main.values['loss.label']} as {main.name} is, but with another "
                    f"{', '.join(unsaid)}, which its name does not say; shown as {label}",
                )
            labelled.append(replace(run, variant=differing[id(run)], label=label))
    return sorted(labelled, key=lambda run: run.name)


def _method(run: Run) -> dict[str, Any]:
    """What makes the method, beside the objective's name: settings that change numbers."""
    left_out = (*NOT_OF_METHOD, *UNUSED.get(run.loss, ()))
    method = {key: value for key, value in run.values.items() if not key.startswith(left_out)}
    if method.get("data.seed") == run.seed:
        del method["data.seed"]  # another seed, not another method
    return method


def _difference(method: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    keys = sorted(method.keys() | usual.keys())
    return {key: method.get(key) for key in keys if method.get(key) != usual.get(key)}


def _plain(run: Run) -> bool:
    setting = run.setting
    return run.name == f"{setting.model}-{run.loss}-{setting.data}-s{run.seed}"


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _iteration(run: Run, t: int) -> Iteration:
    return run.folder.base if t == BASE else run.folder.iteration(t)


def _evaluated(path: Path) -> dict[str, Any]:
    evaluation = read_json(path)
    strange = sorted(set(evaluation) - set(PARTS))
    if strange:
        raise ValueError(
            f"an older layout, with {', '.join(strange)} where {', '.join(PARTS)} are now; the "
            "run's own command counts it again once the file is removed"
        )
    return evaluation


def _numbers(evaluation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one evaluation, without what says whose it is."""
    for metric, estimate in evaluation.get("heldout", {}).items():
        yield {"part": "heldout", "task": "", "metric": metric} | _estimate(estimate)
    average = evaluation.get("average")
    of = average["of"] if average else {}
    for task, facts in evaluation.get("benchmarks", {}).items():
        within = {name: sub for name, sub in facts.get("subtasks", {}).items()}
        for part, name, one in [
            ("benchmark", task, facts),
            *(("subtask", f"{task}/{name}", sub) for name, sub in within.items()),
        ]:
            shared = {key: one.get(key) for key in ("n", "num_fewshot", "version")}
            for metric, estimate in one["metrics"].items():
                in_average = part == "benchmark" and of.get(task) == metric
                yield (
                    {"part": part, "task": name, "metric": metric, "of_average": in_average}
                    | _estimate(estimate)
                    | shared
                )
    if average:
        yield {"part": "average", "task": "", "metric": "average"} | _estimate(average)


def _estimate(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": found["value"], "stderr": found.get("stderr"), "n": found.get("n")}


def _contingency(by_split: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for split, facts in by_split.items():
        counts = facts["contingency"]
        cells = {cell: counts[cell] / facts["num_prompts"] for cell in CELLS if counts}
        means = {key: value for key, value in facts.items() if isinstance(value, float)}
        yield {"split": split, "num_prompts": facts["num_prompts"]} | cells | means


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
