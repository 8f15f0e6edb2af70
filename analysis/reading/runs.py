"""The runs of a folder and their numbers as frames. No torch.

Frames are read when asked for and kept. A file that cannot be read becomes a problem and the rest
goes on (`files`); only a folder without any run is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import yaml
from tqdm import tqdm

from analysis.reading import commands
from analysis.reading.files import Files
from analysis.reading.methods import Run, Setting, labelled
from analysis.reading.rows import found
from tspin.config import older
from tspin.objectives.contingency import CELLS
from tspin.runs import heartbeat
from tspin.runs.artifacts import SCORES, SHARED, Iteration, RunDir, no_run, run_dirs
from tspin.tools.files import flatten, read_json

BASE = -1  # the "iteration" of the initial policy; theta_t+1, what iteration t leaves, is row t
# What an evaluation consists of.
PARTS = ("heldout", "families", "benchmarks", "average", "harness")
REQUIRED = ("name", "seed", "model.name", "data.name", "loss.name", "loss.label")
FAST_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it was built in
T = TypeVar("T")
OF_RUN = ["label", "seed", "run", "iteration"]
OF_BENCHMARK = ["n", "num_fewshot", "version"]


class Sampled(NamedTuple):
    """share: of the training prompts that got a new y'; tokens: of these, EOS included"""

    share: float
    tokens: float


class Runs:
    """Some runs, the problems of their files, and frames of their numbers."""

    def __init__(
        self, runs: Sequence[Run], files: Files, every: Sequence[Run] | None = None
    ) -> None:
        """every: the runs that these are some of"""
        self.runs = list(runs)
        self.twins: Sequence[tuple[Run, str]] = ()  # left out: who it is, and who stands for it
        self._files = files
        self._every = self.runs if every is None else every

    @classmethod
    def read(cls, folder: Path) -> Runs:
        """The runs of `folder`. ValueError where there is none that can be read."""
        if not folder.is_dir():
            raise ValueError(f"runs={folder} is no folder; give the runs_dir of your runs")
        files = Files()
        folders = tqdm(run_dirs(folder), "configurations", disable=None, leave=False)
        runs = [run for it in folders if (run := files.once(it.config, _run))]
        for other in sorted(folder.iterdir()):
            shared = other.name in (*SHARED, "multirun") or other.name.startswith(".")
            if other.is_dir() and not shared and not RunDir(other).config.exists():
                files.problem(other, "no configuration in it; no run, or one that never began")
        if not runs:
            why = "; ".join(files.problems) or "it is empty"
            raise ValueError(f"runs={folder} has no run ({why}); `python main.py` makes one")
        kept, twins = _without_twins(labelled(runs, files.problem), files)
        result = cls(kept, files)
        result.twins = twins
        for run in result:
            for t in range(run.iterations):
                out = run.folder.iteration(t)
                if out.path.exists() and not out.done.exists():
                    command = result.resume(run)
                    way = f"; `{command}` goes on" if command else ""
                    why = "it diverged" if result.diverged(run) else "not finished"
                    files.problem(out.path, f"{why}, left out{way}")
        return result

    @classmethod
    def read_one(cls, folder: Path) -> Runs:
        """The one run in its folder, unfinished or not. ValueError where it cannot be read."""
        if not RunDir(folder).config.exists():
            raise no_run(folder)
        files = Files()
        run = files.once(RunDir(folder).config, _run)
        if run is None:
            raise ValueError(f"{folder} is no run that can be read: {'; '.join(files.problems)}")
        return cls(labelled([run], lambda path, what: None), files)

    @property
    def problems(self) -> list[str]:
        return self._files.problems

    def where(self, keep: Callable[[Run], bool]) -> Runs:
        """Some of the runs; problems and what was read are shared."""
        return Runs([run for run in self.runs if keep(run)], self._files, self._every)

    def alone(self, run: Run) -> Runs:
        """One run, a twin it may be."""
        return Runs([run], self._files, self._every)

    def settings(self) -> list[Setting]:
        """Those of runs that have finished an iteration."""
        return sorted({run.setting for run in self.runs if run.folder.iterations()})

    def of(self, setting: Setting) -> Runs:
        return self.where(lambda run: run.setting == setting)

    def labels(self) -> list[str]:
        return list(self.by_label())

    def grouped(self, key: Callable[[Run], T]) -> dict[T, list[Run]]:
        groups: dict[T, list[Run]] = {}
        for run in self:
            groups.setdefault(key(run), []).append(run)
        return groups

    def by_label(self) -> dict[str, list[Run]]:
        return self.grouped(lambda run: run.label)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    # --- frames ---------------------------------------------------------------------------------

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        """One row per number of an evaluation.

        label, seed, run, iteration (BASE: initial policy), part (heldout | family | benchmark |
        average), key (held-out metric, FAMILY,METRIC, task, "average"), value (as evaluations hold
        it: a share, nats), its stderr, and of a benchmark n, num_fewshot, version.
        """
        rows = self._rows(lambda out: out.evaluation, _numbers, first=BASE, optional=True)
        columns = [*OF_RUN, "part", "key", "value", "stderr", *OF_BENCHMARK]
        return pd.DataFrame(rows, columns=columns).astype(
            {"iteration": int, "value": float, "stderr": float}
        )

    @cached_property
    def contingency(self) -> pd.DataFrame:
        """label, seed, run, iteration, split, num_prompts, the four CELLS as shares, and the means
        `logps/ROLE`, `rewards/ROLE`, after each iteration; NaN where an objective has none."""
        rows = self._rows(lambda out: out.contingency, _contingency)
        first = [*OF_RUN, "split", "num_prompts", *CELLS]
        others = sorted({key for row in rows for key in row} - set(first))
        return pd.DataFrame(rows, columns=[*first, *others])

    def steps(self, run: Run, t: int) -> pd.DataFrame:
        """One row per optimiser step of iteration t: progress (0..1) and its metrics. Empty where
        there is none."""
        frame = self._files.once(run.folder.iteration(t).metrics, self._read_steps, optional=True)
        return pd.DataFrame() if frame is None else frame

    def scores(self, run: Run, t: int) -> pd.DataFrame:
        """Log-probabilities and rewards after iteration t of the prompts that its readable samples
        show: a row per prompt and role."""
        shown = sorted({row["id"] for row in self.samples(run, t)})
        return self._files.parquet(run.folder.iteration(t).scores, SCORES.names, id=shown)

    def heldout_logps(self, run: Run, t: int) -> pd.DataFrame:
        """log pi(y) of the held-out prompts after iteration t (BASE: before the first), by id:
        logp, num_tokens. Empty where nothing was scored."""
        path, names = _iteration(run, t).scores, ["id", "logp", "num_tokens"]
        frame = self._files.parquet(path, names, split=["heldout"], role=["annotated"])
        return frame.drop_duplicates("id").set_index("id")

    def answers(self, run: Run, t: int) -> pd.DataFrame:
        """Held-out answers after iteration t (BASE: before the first): id, decoding, response,
        correct (None where no program can tell)."""
        columns = ["id", "decoding", "response", "correct"]
        return self._files.parquet(_iteration(run, t).answers, columns)

    def parts(self, run: Run) -> pd.Series:
        """Part of each held-out prompt by id, where rows have a time."""
        prompts = self._files.parquet(run.folder.prompts, ["id", "split", "part"])
        return prompts[prompts["split"] == "heldout"].set_index("id")["part"]

    def samples(self, run: Run, t: int) -> list[dict[str, Any]]:
        """Readable rows of iteration t: id, split, prompt, annotated, synthetic, proto."""
        path = run.folder.iteration(t).samples
        return self._files.once(path, self._files.json_lines, optional=True) or []

    def seconds(self, run: Run, t: int) -> dict[str, float]:
        """Of the stages of iteration t, where it is finished and says."""
        facts = self._files.once(run.folder.iteration(t).done, read_json, optional=True) or {}
        return dict(facts.get("seconds", {}))

    def sampled(self, run: Run, t: int) -> Sampled:
        """What theta_t sampled of y' for training prompts; NaN where nothing was scored."""

        def read(path: Path) -> Sampled:
            columns = ["source", "num_tokens"]
            every = found(path, columns, split=["train"], role=["synthetic"]).to_pandas()
            new = every[every["source"] == t]
            if every.empty:  # of an objective without y'
                return Sampled(math.nan, math.nan)
            return Sampled(len(new) / len(every), float(new["num_tokens"].sum()))

        scores = run.folder.iteration(t).scores
        sampled = self._files.once(scores, read, optional=True, part="sampled")
        return Sampled(math.nan, math.nan) if sampled is None else sampled

    def num_pairs(self, run: Run) -> float:
        """Annotated pairs the run trains on; NaN where it does not say."""
        counts = self._files.once(run.folder.data, read_json, optional=True) or {}
        number = counts.get("num_train", run.values.get("data.size"))
        return math.nan if number is None else float(number)

    def pairs(self) -> dict[str, float]:
        """`num_pairs` by label."""
        return {run.label: self.num_pairs(run) for run in self}

    def words(self, run: Run) -> list[str] | None:
        """The words that a run was last started with; None where they are not recorded."""
        return commands.words_of(self._files.once(run.folder.provenance, read_json, optional=True))

    def resume(self, run: Run, *more: str) -> str | None:
        """The command that goes on with a run, as it was last given; None where nothing says, or
        where it has diverged and would again.

        more  words that replace those of the same key: of a longer run
        """
        words = self.words(run)
        return None if words is None or self.diverged(run) else commands.run(words, *more)

    def diverged(self, run: Run) -> bool:
        """Whether its last launch says that it did."""
        beat = heartbeat.read(run.folder)
        return beat is not None and "diverged" in (beat.why or "")

    def on_setting(self, setting: Setting, *more: str) -> str | None:
        """A multirun on a setting, as the words of a run of it say; None where no run has any.

        more  what is run: sweep=NAME, loss=..., seed=0,1,2
        """
        runs = [run for run in self._every if run.setting == setting]
        for run in sorted(runs, key=lambda run: (not run.is_main, run.loss == "sft", run.name)):
            if (words := self.words(run)) is not None:
                return commands.of_setting(words, *more)
        return None

    def described(self, values: pd.DataFrame, **facts: Callable[[Run], Any]) -> pd.DataFrame:
        """`values` with a column for each fact of the run that a row is of."""
        by_name = {run.name: run for run in self}
        runs = [by_name[name] for name in values["run"]]
        return values.assign(**{key: [fact(run) for run in runs] for key, fact in facts.items()})

    # --- reading --------------------------------------------------------------------------------

    def _rows(
        self,
        file: Callable[[Iteration], Path],
        read: Callable[[Path], list[dict[str, Any]]],
        *,
        first: int = 0,
        optional: bool = False,
    ) -> list[dict[str, Any]]:
        """The rows of a file of every finished iteration; first=BASE: and of the initial policy."""
        rows = []
        for run in self:
            for t in (*range(first, 0), *run.folder.iterations()):
                path = file(_iteration(run, t))
                key = {"label": run.label, "seed": run.seed, "run": run.name, "iteration": t}
                rows += [key | row for row in self._files.once(path, read, optional=optional) or ()]
        return rows

    def _read_steps(self, path: Path) -> pd.DataFrame:
        frame = pd.DataFrame(self._files.json_lines(path))
        for name in ("step", "progress", "loss"):
            frame[name]  # KeyError: an older layout
        numbers = frame.astype(float)
        bad = numbers.index[numbers["loss"].isna()]
        if len(bad):
            first = int(numbers.loc[bad[0], "step"])
            share = f"{len(bad)} of {len(numbers)} steps, first at step {first}"
            self._files.problem(path, f"the loss is not finite in {share}; those are left out")
        return numbers.drop(index=bad)


def _run(config: Path) -> Run:
    tree = yaml.load(config.read_text(encoding="utf-8"), FAST_YAML)
    values = flatten(older.current(tree))
    for key in REQUIRED:
        values[key]  # KeyError: an older layout
    int(values["seed"])
    return Run(RunDir(config.parent), values)


def _without_twins(runs: Iterable[Run], files: Files) -> tuple[list[Run], list[tuple[Run, str]]]:
    """One run per setting, method and seed: the one that went furthest. -> these, and each that is
    left out with the name of the one that stands for it

    That a shorter one is its beginning, as where points of a sweep share iterations, is no
    problem; that it says something else would be.
    """

    def key(run: Run, t: int) -> Any:
        return (files.once(run.folder.iteration(t).done, read_json) or {}).get("key")

    longest: dict[tuple[Setting, str, int], Run] = {}
    twins: list[tuple[Run, str]] = []
    for run in sorted(runs, key=lambda run: (-len(run.folder.iterations()), run.name)):
        first = longest.setdefault((run.setting, run.label, run.seed), run)
        done = run.folder.iterations()
        if first is not run:
            twins.append((run, first.name))
        if first is not run and not all(key(run, t) and key(run, t) == key(first, t) for t in done):
            what = f"is the same method as {first.name} (seed {run.seed}), which is the one shown"
            files.problem(run.folder.config, what)
    return sorted(longest.values(), key=lambda run: run.name), twins


def _iteration(run: Run, t: int) -> Iteration:
    return run.folder.base if t == BASE else run.folder.iteration(t)


def _numbers(path: Path) -> list[dict[str, Any]]:
    """The rows of one evaluation, without what says whose it is.

    A benchmark's metric is the one its average is made of, else its first.
    """
    evaluation = read_json(path)
    strange = sorted(set(evaluation) - set(PARTS))
    if strange:
        layout = f"with {', '.join(strange)} where {', '.join(PARTS)} are now"
        way = "the run's own command counts it again once the file is removed"
        raise ValueError(f"an older layout, {layout}; {way}")
    heldout, average = evaluation.get("heldout", {}), evaluation.get("average")
    rows = [
        {"part": "heldout", "key": key, **{name: it.get(name) for name in ("value", "stderr", "n")}}
        for key, it in heldout.items()
    ]
    rows += [
        {"part": "family", "key": f"{family},{key}", "value": it["value"], "stderr": it["stderr"]}
        for family, metrics in evaluation.get("families", {}).items()
        for key, it in metrics.items()
    ]
    for task, facts in evaluation.get("benchmarks", {}).items():
        metrics, of_average = facts["metrics"], average and average["of"].get(task)
        for metric in [of_average] if of_average in metrics else [*metrics][:1]:
            row = {"part": "benchmark", "key": task, "value": metrics[metric]["value"]}
            rows.append(row | {key: facts.get(key) for key in OF_BENCHMARK})
    if average:
        rows.append({"part": "average", "key": "average", "value": average["value"]})
    return rows


def _contingency(path: Path) -> list[dict[str, Any]]:
    rows = []
    for split, facts in read_json(path).items():
        counts, number = facts["contingency"], facts["num_prompts"]
        cells = {cell: counts[cell] / number for cell in CELLS if counts}
        means = {key: value for key, value in facts.items() if isinstance(value, float)}
        rows.append({"split": split, "num_prompts": number} | cells | means)
    return rows
