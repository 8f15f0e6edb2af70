"""How numbers are shown: title, unit, scale and which way is better, of metrics and tasks.

Which of them a table has columns for: the benchmarks and their average where there are some, the
held-out diagnostics otherwise. The main number is the average, else the first column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.reading.runs import Runs
from tspin.runs import comparison
from tspin.runs.comparison import Form

AVERAGE = "average"
# lm-eval's name of a task -> the paper's, in the paper's order
TASKS = {
    "gsm8k": "GSM8K",
    "leaderboard_math_hard": "MATH",
    "leaderboard_musr": "MUSR",
    "mmlu": "MMLU",
    "leaderboard_mmlu_pro": "MMLUP",
    "leaderboard_gpqa": "GPQA",
    "hellaswag": "HellaSwag",
    "winogrande": "WG",
    "leaderboard_bbh": "BBH",
    "leaderboard_ifeval": "IFEval",
}


@dataclass(frozen=True)
class Measure:
    """A number of an evaluation, as it is shown."""

    key: str  # task, "average", or held-out metric
    title: str
    unit: str = ""
    factor: float = 1.0  # from what files hold to what is shown
    digits: int = 2
    better: int = 0  # 1: more is better, -1: less is, 0: neither

    @property
    def axis(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def form(self) -> Form:
        """How its numbers and their differences are written."""
        if self.unit == "%":
            return replace(comparison.SHARE, better=self.better)
        if self.key == "perplexity":
            return comparison.PERPLEXITY
        return Form(f".{self.digits}f", better=self.better)

    @property
    def opening(self) -> str:
        """How a caption about it begins."""
        return self.axis[0].upper() + self.axis[1:]


def percent(key: str, title: str, better: int = 1) -> Measure:
    return Measure(key, title, "%", 100.0, better=better)


NOTHING = Measure("", "nothing")  # where no run was evaluated
HELDOUT = {
    measure.key: measure
    for measure in (
        percent("exact_match,greedy", "accuracy, greedy"),
        percent("exact_match,sampled", "accuracy, sampled"),
        percent("exact_match,cool", "accuracy, sampled cooler"),
        Measure("distinct_right,sampled", "different right answers", better=1),
        Measure("perplexity", "perplexity", digits=3, better=-1),
        Measure("margin", "held-out margin", "nats"),
        Measure("logp_margin", "held-out logp margin", "nats"),
        Measure("logp", "log-likelihood of y", "nats", better=1),
    )
}
COLUMNS = ("exact_match,greedy", "exact_match,sampled", "exact_match,cool", "perplexity", "margin")
# Where several answers are right, samples say more than the one answer of greedy decoding.
OPEN = "distinct_right,sampled"
OPEN_COLUMNS = ("exact_match,sampled", "exact_match,greedy", OPEN, "logp", "exact_match,cool",
                "perplexity", "margin")  # fmt: skip


def benchmark(task: str) -> Measure:
    return percent(task, TASKS.get(task, task))


def columns(runs: Runs) -> list[Measure]:
    """What a table of these runs has columns for, the average or the first one the main number."""
    numbers = runs.evaluation
    tasks = list(numbers.loc[numbers["part"] == "benchmark", "key"].unique())
    if tasks:
        order = [*(task for task in TASKS if task in tasks), *(t for t in tasks if t not in TASKS)]
        average = [percent(AVERAGE, "Avg")] if (numbers["part"] == AVERAGE).any() else []
        return [*map(benchmark, order), *average]
    metrics = set(numbers.loc[numbers["part"] == "heldout", "key"])
    keys = OPEN_COLUMNS if OPEN in metrics else COLUMNS
    return [HELDOUT[key] for key in (keys if metrics & {*keys} else HELDOUT) if key in metrics]


def over_prompts(measure: Measure, row: pd.Series) -> tuple[float, float]:
    """The 95% interval of one policy's number, as it is shown; NaN where it is not known.

    row  of `values`: value, stderr, n
    """
    stderr, n = (None if pd.isna(row[name]) else float(row[name]) for name in ("stderr", "n"))
    ends = comparison.interval(measure.key, row["value"] / measure.factor, stderr, n)
    return measure.factor * ends[0], measure.factor * ends[1]


def main_number(measures: Sequence[Measure]) -> Measure:
    """The average where there is one, else the first."""
    return next((m for m in measures if m.key == AVERAGE), measures[0] if measures else NOTHING)


def main_of(runs: Runs) -> Measure:
    """The main number of these runs."""
    return main_number(columns(runs))


def values(runs: Runs, measures: list[Measure]) -> pd.DataFrame:
    """The rows of `runs.evaluation` for these measures, with values as they are shown; held-out
    numbers first, averages last."""
    factors = {measure.key: measure.factor for measure in measures}
    numbers = runs.evaluation.sort_values("part", ascending=False, kind="stable")
    shown = numbers[numbers["key"].isin(factors)].reset_index(drop=True)
    return shown.assign(value=shown["value"] * shown["key"].map(factors).astype(float))
