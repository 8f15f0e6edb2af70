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
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import HIGH, LOW, Column, Drawing, Piece, Table
from analysis.reading import measures, missing, stats
from analysis.reading.measures import Measure
from analysis.reading.regimes import Regime, regimes
from analysis.reading.runs import Run, Runs

NAMES = ("comparison",)
DIGITS = 2
COLUMNS = (
    Column("a", "A"),
    Column("b", "B"),
    Column("measure", "measure"),
    Column("iteration", "iteration"),
    Column("difference", "A - B", DIGITS, signed=True),
    Column("p", "p (Holm)", 3, least=True),
    Column("effect", "effect d_z", 2, signed=True),
    Column("by_seed", "A - B, by seed", DIGITS, signed=True),
    Column("num_seeds", "seeds"),
    Column("num_prompts", "prompts"),
    Column("verdict", "verdict"),
)
FRAME = ["a", "b", "measure", "iteration", "difference", f"difference{LOW}", f"difference{HIGH}"]
FRAME += ["p_alone", "p", "effect", "by_seed", f"by_seed{LOW}", f"by_seed{HIGH}", "num_seeds"]
FRAME += ["num_prompts", "better", "verdict"]
ALPHA = 1 - stats.LEVEL


def build(
    runs: Runs,
    name: str = "comparison",
    *,
    with_paper: bool = False,
    iteration: int | None = None,
) -> list[Piece]:
    """A table and a figure for every regime.

    iteration  after which; None: the last of both methods of a pair
    with_paper adds nothing: one run a method allows no test
    """
    found = [regime for regime in regimes(runs) if len(regime.members)]
    pieces: list[Piece] = []
    for regime in found:
        named = name if len(found) == 1 else f"{name}-{regime.slug}"
        pieces += _of_regime(regime, named, iteration)
    return pieces


@dataclass(frozen=True)
class Side:
    """A method after iteration t."""

    label: str
    runs: Sequence[Run]
    t: int


def differences(runs: Runs, a: Side, b: Side, how: str) -> np.ndarray:
    """(seeds, prompts) right under A minus right under B, NaN where one has no answer.

    how  the decoding of the answers
    """
    by_seed = {run.seed: run for run in b.runs}
    found = [
        (_right(runs, run, a.t, how) - _right(runs, by_seed[run.seed], b.t, how)).rename(run.seed)
        for run in a.runs
        if run.seed in by_seed
    ]
    together = pd.concat(found, axis=1) if found else pd.DataFrame()
    return together.to_numpy(dtype=float).T.reshape(len(found), -1)


def compare(runs: Runs, iteration: int | None = None) -> pd.DataFrame:
    """Every pair of methods (labels) of these runs, in every measure. -> columns FRAME"""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.label, []).append(run)
    rows = []
    for b, a in itertools.combinations(style.in_order(list(members)), 2):
        ends = _ends(members[a], members[b]) if iteration is None else (iteration, iteration)
        if ends:
            rows += _pair(runs, Side(a, members[a], ends[0]), Side(b, members[b], ends[1]))
    frame = pd.DataFrame(rows, columns=FRAME)
    for _, of_measure in frame.groupby("measure"):
        frame.loc[of_measure.index, "p"] = stats.holm(of_measure["p_alone"].tolist())
    frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
    return frame


def _of_regime(regime: Regime, name: str, iteration: int | None) -> list[Piece]:
    runs, setting = regime.members, regime.setting
    frame = compare(runs, iteration)
    lines = missing.seeds(runs, "seeds", setting, *regime.overrides)
    if len(runs.labels()) < 2:
        lines.append(f"fewer than two methods: {missing.command('table1', setting)}")
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
    table = Table(name, caption, COLUMNS, frame.drop(columns="better"), "measure", tuple(lines))
    drawn, data = _forest(frame, measures.columns(runs))
    caption = against + "difference with its 95% interval over seeds and, where known, prompts."
    return [table, Drawing(f"{name}-figure", caption, drawn, data)]


def _forest(frame: pd.DataFrame, shown: Sequence[Measure]) -> tuple[style.Figure, pd.DataFrame]:
    """A panel for each measure, a row for each pair, the zero line; and the data drawn."""
    compared = frame.dropna(subset=["difference"])
    panels = [measure for measure in shown if measure.title in set(compared["measure"])]
    data = compared[["measure", "a", "b", "difference", f"difference{LOW}", f"difference{HIGH}"]]
    pairs = list(dict.fromkeys(zip(data["a"], data["b"], strict=True)))
    height = max(1.4, 0.5 + 0.24 * len(pairs))
    drawn = style.figure(1, max(len(panels), 1), panel=(3.2, height))
    if not panels:
        style.blank(drawn.axes[0], "no two methods")
    for axes, measure in zip(drawn.axes, panels, strict=False):
        axes.axvline(0.0, color="#666666", linewidth=0.8)
        for row in data[data["measure"] == measure.title].to_dict("records"):
            y, mean = -pairs.index((row["a"], row["b"])), row["difference"]
            ends = [[mean - row[f"difference{LOW}"]], [row[f"difference{HIGH}"] - mean]]
            axes.errorbar(mean, y, xerr=None if np.isnan(ends).any() else ends, capsize=2,
                          color=style.colour(row["a"]), marker=style.marker(row["a"]))  # fmt: skip
        first = axes is drawn.axes[0]
        said = [f"{a} - {b}" if first else "" for a, b in pairs]
        axes.set_yticks([-i for i in range(len(pairs))], said)
        axes.set_xlabel(f"difference, {measure.axis}".replace("(%)", "(points)"))
        axes.grid(axis="y", visible=False)
    return drawn, data


def _ends(a: Sequence[Run], b: Sequence[Run]) -> tuple[int, int] | None:
    """Where two methods are compared; None where one has finished no iteration."""
    done = [set.intersection(*(set(run.folder.iterations()) for run in side)) for side in (a, b)]
    if not all(done):
        return None
    planned = [{run.values.get("selfplay.iterations") for run in side} for side in (a, b)]
    common = done[0] & done[1]
    if planned[0] == planned[1] and common:
        return max(common), max(common)
    return max(done[0]), max(done[1])


def _pair(runs: Runs, a: Side, b: Side) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    main = measures.main_number(measures.columns(runs))
    decodings = [how for how in _decodings(runs, a) if how in _decodings(runs, b)]
    for how in decodings:
        test = stats.bootstrap(100 * differences(runs, a, b, how))
        rows.append(
            _row(runs, a, b, measures.HELDOUT[f"exact_match,{how}"])
            | {"difference": test.difference, f"difference{LOW}": test.low,
               f"difference{HIGH}": test.high, "p_alone": test.p, "effect": test.effect,
               "num_seeds": test.num_seeds, "num_prompts": test.num_prompts}
        )  # fmt: skip
    if main and not (decodings and main.key in measures.HELDOUT):
        rows.append(_row(runs, a, b, main))
    return rows


def _row(runs: Runs, a: Side, b: Side, measure: Measure) -> dict[str, object]:
    """The comparison seed by seed."""
    found = measures.values(runs, [measure])
    sides = []
    for side in (a, b):
        at_end = found[found["iteration"] == side.t].set_index("run")["value"]
        sides.append({run.seed: at_end[run.name] for run in side.runs if run.name in at_end})
    over = stats.paired(*sides)
    spread = (over.high - over.mean) / float(stats.t_quantile(over.n)) * math.sqrt(over.n)
    return {
        "a": a.label, "b": b.label, "measure": measure.title, "better": measure.better,
        "iteration": str(a.t) if a.t == b.t else f"{a.t}, {b.t}",
        "difference": over.mean, f"difference{LOW}": over.low, f"difference{HIGH}": over.high,
        "p_alone": stats.t_test(over), "effect": over.mean / spread if spread > 0 else math.nan,
        "by_seed": over.mean, f"by_seed{LOW}": over.low, f"by_seed{HIGH}": over.high,
        "num_seeds": over.n, "num_prompts": math.nan,
    }  # fmt: skip


def _right(runs: Runs, run: Run, t: int, how: str) -> pd.Series:
    """Share of right answers by prompt, over its draws."""
    answers = runs.answers(run, t)
    of = (answers["decoding"] == how).to_numpy(bool)
    right = answers["correct"].to_numpy()[of].astype(float)
    by_draw = pd.Series(right, index=answers["id"].to_numpy()[of])
    return by_draw.groupby(level=0, sort=False).mean()


def _decodings(runs: Runs, side: Side) -> list[str]:
    """Decodings whose answers could be checked in every run."""
    tables = [runs.answers(run, side.t) for run in side.runs]
    checked = [set(table.loc[table["correct"].notna(), "decoding"]) for table in tables]
    there = set.intersection(*checked)
    return [how for how in ("greedy", "sampled", "cool") if how in there]


def _verdict(row: dict[str, Any]) -> str:
    if row["num_seeds"] < 2:
        return "not enough data"
    if math.isnan(row["p"]) or row["p"] >= ALPHA or not row["better"]:
        return "cannot tell"
    return "A" if row["difference"] * row["better"] > 0 else "B"
