"""Whether method A beats method B: every pair of methods, on the same prompts and seeds.

Held-out answers that a program can check are compared prompt by prompt (paired bootstrap over
prompts and seeds); where there are none, the main number seed by seed (paired t). p-values are
corrected for the number of pairs (Holm).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import HIGH, LOW, Column, Drawing, Piece, Table, of_each
from analysis.reading import measures, missing, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, finished
from analysis.reading.regimes import Regime, regimes
from analysis.reading.runs import Runs
from tspin.tools import intervals
from tspin.tools.intervals import Interval

NAMES = ("comparison",)
DIGITS = 2
COLUMNS = (
    Column("a", "A"), Column("b", "B"), Column("measure", "measure"),
    Column("iteration", "iteration"),
    Column("difference", "A - B", DIGITS, signed=True),
    Column("p", "p (Holm)", 3, least=True),
    Column("effect", "effect d_z", 2, signed=True),
    Column("by_seed", "A - B, by seed", DIGITS, signed=True),
    Column("num_seeds", "seeds"), Column("num_prompts", "prompts"), Column("verdict", "verdict"),
)  # fmt: skip
DIFFERENCE, BY_SEED = ([key, key + LOW, key + HIGH] for key in ("difference", "by_seed"))
FRAME = ["a", "b", "measure", "iteration", *DIFFERENCE, "p_alone", "p", "effect", *BY_SEED,
         "num_seeds", "num_prompts", "better", "verdict"]  # fmt: skip
ALPHA = 1 - intervals.LEVEL


def build(runs: Runs, name: str = "comparison", *, iteration: int | None = None) -> list[Piece]:
    """A table and a figure for every regime.

    iteration  after which; None: the last of both methods of a pair
    """
    make = partial(_of_regime, iteration=iteration)
    return of_each(regimes(runs), name, make)


@dataclass(frozen=True)
class Side:
    """The runs of a method, one at least, after iteration t."""

    runs: Sequence[Run]
    t: int

    @property
    def label(self) -> str:
        return self.runs[0].label


def differences(runs: Runs, a: Side, b: Side, decoding: str) -> np.ndarray:
    """(seeds, prompts) right under A minus right under B, NaN where one has no answer."""
    others = {run.seed: run for run in b.runs}
    columns = [
        right(runs, run, a.t, decoding) - right(runs, others[run.seed], b.t, decoding)
        for run in a.runs if run.seed in others
    ]  # fmt: skip
    together = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    return together.to_numpy(dtype=float).T


def gain_of(runs: Runs, a: Side, b: Side, measure: Measure) -> Interval:
    """How much better A is than B: over seeds and prompts where a program checked the answers, else
    over seeds."""
    kind, _, decoding = measure.key.partition(",")
    if kind == "exact_match":
        over = intervals.bootstrap(measure.factor * differences(runs, a, b, decoding))
        if not math.isnan(over.mean):
            return over
    return seed_by_seed(runs, a, b, measure).turned(measure.better)


def compare(runs: Runs, iteration: int | None = None) -> pd.DataFrame:
    """Every pair of methods (labels) of these runs, in every measure. -> columns FRAME"""
    members = runs.by_label()
    rows = []
    for b, a in itertools.combinations(style.in_order(members), 2):
        last = ends(members[a], members[b]) if iteration is None else (iteration, iteration)
        if last:
            rows += _pair(runs, Side(members[a], last[0]), Side(members[b], last[1]))
    frame = pd.DataFrame(rows, columns=FRAME)
    for _, of_measure in frame.groupby("measure"):
        frame.loc[of_measure.index, "p"] = stats.holm(of_measure["p_alone"].tolist())
    frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
    return frame


def _of_regime(regime: Regime, name: str, *, iteration: int | None) -> list[Piece]:
    runs, setting = regime.members, regime.setting
    frame = compare(runs, iteration)
    lines = missing.seeds(runs, "seeds", setting, *regime.overrides)
    if len(runs.labels()) < 2:
        lines.append(f"fewer than two methods{missing.command('table1', runs, setting)}")
    lines += missing.iterations(runs)
    against = (
        f"A against B, {regime}, after their last common iteration, or each after its own last "
        "where they were planned to differ: "
    )
    caption = against + (
        "difference with its 95% interval over seeds and prompts, p corrected for the number of "
        "pairs, effect size; and the difference with its interval over seeds alone. The verdict "
        "names the better one."
    )
    table = Table(name, caption, COLUMNS, frame.drop(columns="better"), "measure", lines)
    caption = against + "difference with its 95% interval over seeds and, where known, prompts."
    data = frame.dropna(subset=["difference"])[["measure", "a", "b", *DIFFERENCE]]
    drawn = _forest(data, measures.columns(runs))
    return [table, Drawing(f"{name}-figure", caption, drawn, data)]


def _forest(data: pd.DataFrame, shown: Sequence[Measure]) -> style.Figure:
    """A panel for each measure, a row for each pair, the zero line."""
    panels = [measure for measure in shown if measure.title in set(data["measure"])]
    pairs = list(dict.fromkeys(zip(data["a"], data["b"], strict=True)))
    height = max(1.4, 0.5 + 0.24 * len(pairs))
    drawn = style.figure(1, max(len(panels), 1), panel=(3.2, height))
    if not panels:
        style.blank(drawn.axes[0], "no two methods")
    for axes, measure in zip(drawn.axes, panels, strict=False):
        axes.axvline(0.0, color="#666666", linewidth=0.8)
        for row in data[data["measure"] == measure.title].to_dict("records"):
            mean, low, high = (row[key] for key in DIFFERENCE)
            bar = style.reach(mean, low, high)
            axes.errorbar(mean, -pairs.index((row["a"], row["b"])), xerr=bar, capsize=2,
                          color=style.colour(row["a"]), marker=style.marker(row["a"]))  # fmt: skip
        first = axes is drawn.axes[0]
        names = [f"{a} - {b}" if first else "" for a, b in pairs]
        axes.set_yticks([-i for i in range(len(pairs))], names)
        axes.set_xlabel(f"difference, {measure.axis}".replace("(%)", "(points)"))
        axes.grid(axis="y", visible=False)
    return drawn


def ends(a: Sequence[Run], b: Sequence[Run]) -> tuple[int, int] | None:
    """Where two methods are compared; None where one has finished no iteration."""
    of_a, of_b = finished(a), finished(b)
    if not (of_a and of_b):
        return None
    common = of_a & of_b
    if common and {run.iterations for run in a} == {run.iterations for run in b}:
        return max(common), max(common)
    return max(of_a), max(of_b)


def _pair(runs: Runs, a: Side, b: Side) -> list[dict[str, object]]:
    checked = _decodings(runs, a) & _decodings(runs, b)
    rows = []
    for decoding in (name for name in ("greedy", "sampled", "cool") if name in checked):
        over = intervals.bootstrap(100 * differences(runs, a, b, decoding))
        rows.append(_row(runs, a, b, measures.HELDOUT[f"exact_match,{decoding}"], over))
    main = measures.main_of(runs)
    if main.key and not (rows and main.key in measures.HELDOUT):
        rows.append(_row(runs, a, b, main))
    return rows


def _row(
    runs: Runs, a: Side, b: Side, measure: Measure, over_prompts: Interval | None = None
) -> dict[str, object]:
    by_seed = seed_by_seed(runs, a, b, measure)
    over = over_prompts or by_seed
    intervals = (over.mean, over.low, over.high, by_seed.mean, by_seed.low, by_seed.high)
    return {
        "a": a.label, "b": b.label, "measure": measure.title, "better": measure.better,
        "iteration": when(a, b), "p_alone": over.p, "effect": over.effect, "num_seeds": over.n,
        "num_prompts": math.nan if over.num_prompts is None else over.num_prompts,
        **dict(zip(DIFFERENCE + BY_SEED, intervals, strict=True)),
    }  # fmt: skip


def when(a: Side, b: Side) -> str:
    """After which iterations two methods are compared, in words."""
    return str(a.t) if a.t == b.t else f"{a.t}, {b.t}"


def seed_by_seed(runs: Runs, a: Side, b: Side, measure: Measure) -> Interval:
    """The difference A - B in one measure, over the seeds of both."""
    values = measures.values(runs, [measure])
    return stats.paired(*(_of_seeds(values, side) for side in (a, b)))


def _of_seeds(values: pd.DataFrame, side: Side) -> dict[int, float]:
    at_end = values[values["iteration"] == side.t].set_index("run")["value"]
    return {run.seed: at_end[run.name] for run in side.runs if run.name in at_end}


def right(runs: Runs, run: Run, t: int, decoding: str) -> pd.Series:
    """Share of right answers by prompt, over its draws."""
    answers = runs.answers(run, t)
    answers = answers[answers["decoding"] == decoding]
    by_draw = pd.Series(answers["correct"].to_numpy().astype(float), index=answers["id"].to_numpy())
    return by_draw.groupby(level=0, sort=False).mean()


def _decodings(runs: Runs, side: Side) -> set[str]:
    """Decodings whose answers could be checked in every run."""
    tables = [runs.answers(run, side.t) for run in side.runs]
    return set.intersection(*(set(t.loc[t["correct"].notna(), "decoding"]) for t in tables))


def _verdict(row: dict[str, Any]) -> str:
    if row["num_seeds"] < 2:
        return "not enough data"
    if math.isnan(row["p"]) or row["p"] >= ALPHA or not row["better"]:
        return "cannot tell"
    return "A" if row["difference"] * row["better"] > 0 else "B"
