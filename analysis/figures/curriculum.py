"""What a curriculum saves and what that costs: tokens and time of the iterations in which it chose,
points lost against all prompts and against as many at random.

Every objective is compared with itself, on the same prompts and seeds. p-values are corrected for
the number of curricula (Holm).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.figures import comparison, style
from analysis.figures.comparison import Side
from analysis.figures.pieces import (
    HIGH,
    LOW,
    Column,
    Drawing,
    Piece,
    Table,
    of_settings,
    spread,
)
from analysis.reading import measures, missing, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs
from tspin.tools.intervals import Interval

NAMES = ("curriculum",)
KEY = "curriculum."
TOKENS, LOST = 50.0, 0.5  # aimed at: percent of the tokens saved, with at most so many points lost
STAGES = ("choose", "generate", "score", "train")  # evaluation is not part of the method
KINDS = {"gate": ("#0072B2", "o"), "skip": ("#D55E00", "s"), "band": ("#009E73", "^"),
         "random": ("#666666", "x")}  # fmt: skip
FRAME = [
    "objective", "curriculum", "kind", "num_seeds", "chosen", "saved", f"saved{LOW}",
    f"saved{HIGH}", "time", f"time{LOW}", f"time{HIGH}", "gain", f"gain{LOW}", f"gain{HIGH}",
    "p_alone", "p", "control", "over", f"over{LOW}", f"over{HIGH}", "verdict",
]  # fmt: skip


def build(runs: Runs, name: str = "curriculum") -> list[Piece]:
    """A table and a figure for every setting of test prompts that has runs with a curriculum."""
    tested = runs.where(lambda run: run.setting.split == "test")
    named = {run.setting for run in tested if _prompts(run) != "all"}
    if named:
        return of_settings(tested.where(lambda run: run.setting in named), name, _of_setting)
    only = tested.settings()[0] if len(tested.settings()) == 1 else None
    lines = [f"no run with a curriculum{missing.command('curriculum', runs, only)}"]
    frame = pd.DataFrame(columns=FRAME).drop(columns="kind")
    return [Table(name, "What curricula save.", _columns(measures.NOTHING), frame, missing=lines)]


@dataclass(frozen=True)
class Family:
    """The runs of an objective that differ by their curriculum alone.

    curricula  by the name and the values of each: its runs
    """

    label: str
    curricula: Mapping[str, Sequence[Run]]

    @property
    def whole(self) -> Sequence[Run]:
        """Those that train on all prompts; maybe none."""
        return self.curricula.get("none", ())


def families(runs: Runs) -> list[Family]:
    """Those with a curriculum at all."""

    def method(run: Run) -> str:
        kept = {key: value for key, value in run.method.items() if not key.startswith(KEY)}
        return json.dumps([run.loss, kept], sort_keys=True)

    found = []
    for members in runs.grouped(method).values():
        curricula: dict[str, list[Run]] = {}
        for run in members:
            curricula.setdefault(curriculum(run), []).append(run)
        if set(curricula) != {"none"}:
            words = [f"{k.rsplit('.', 1)[-1]}={v}" for k, v in members[0].variant.items()
                     if not k.startswith(KEY)]  # fmt: skip
            label = " ".join([members[0].values["loss.label"], *words])
            found.append(Family(label, curricula))
    return found


def curriculum(run: Run) -> str:
    """ "gate share=0.5", or none"""
    if _prompts(run) == "all":
        return "none"
    keys = sorted(key for key in run.values if key.startswith(KEY) and key != f"{KEY}prompts")
    values = {key.removeprefix(KEY): run.values[key] for key in keys}
    words = [f"{key}={value}" for key, value in values.items() if value is not None]
    return " ".join([_prompts(run), *words])


def table(runs: Runs, main: Measure) -> pd.DataFrame:
    """A row for each curriculum of each objective. -> columns FRAME

    saved, time  percent of the tokens of y', and of the seconds, of all prompts: over seeds
    gain         main number minus that of all prompts, turned so that more is better
    over         the same minus that of the control
    """
    rows = []
    for family in families(runs):
        own = [
            _row(runs, family, name, main) for name in sorted(family.curricula) if name != "none"
        ]
        rows += own
    frame = pd.DataFrame(rows, columns=FRAME)
    for _, of_objective in frame.groupby("objective"):
        frame.loc[of_objective.index, "p"] = stats.holm(of_objective["p_alone"].tolist())
    return frame


def verdict(saved: Interval, gain: Interval, main: Measure) -> str:
    """Half of the tokens saved with at most half a point lost, the whole interval of it."""
    if min(saved.n, gain.n) < missing.ENOUGH or math.isnan(gain.low) or main.unit != "%":
        return "not enough data"
    short = [f"{saved.mean:.0f}% of the tokens"] * (saved.mean < TOKENS)
    short += [f"the interval reaches below -{LOST:g}"] * (gain.low < -LOST)
    return f"missed: {', '.join(short)}" if short else "reached"


def _of_setting(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    members = {
        run.name for family in families(runs) for of in family.curricula.values() for run in of
    }
    chosen = runs.where(lambda run: run.name in members)
    main = measures.main_of(chosen)
    frame = table(chosen, main)
    lines = [
        f"no run of {family.label} with curriculum=none"
        + missing.command("curriculum", runs, setting)
        for family in families(chosen)
        if not family.whole
    ]
    lines += missing.iterations(chosen) + missing.seeds(chosen, "curriculum", setting)
    points = "points" if main.unit == "%" else main.unit
    caption = (
        f"Prompts left out, {setting}: tokens of y' and seconds saved in the iterations that "
        f"choose, and what is gained in {main.title} ({points}) over all prompts and over as many "
        f"at random, after the last common iteration; 95% intervals. Aimed at: {TOKENS:g}% of the "
        f"tokens saved with at most {LOST:g} points lost."
    )
    return [
        Table(name, caption, _columns(main), frame.drop(columns="kind"), "objective", lines),
        Drawing(f"{name}-figure", caption, _drawn(frame, main), frame),
    ]


def _columns(main: Measure) -> tuple[Column, ...]:
    return (
        Column("objective", "objective"), Column("curriculum", "curriculum"),
        Column("num_seeds", "seeds"), Column("chosen", "chosen, %", 1),
        Column("saved", "tokens saved, %", 1), Column("time", "time saved, %", 1),
        Column("gain", f"{main.title} over all", main.digits, signed=True),
        Column("p", "p (Holm)", 3, least=True), Column("control", "control"),
        Column("over", "over control", main.digits, signed=True), Column("verdict", "verdict"),
    )  # fmt: skip


def _row(runs: Runs, family: Family, name: str, main: Measure) -> dict[str, object]:
    own = family.curricula[name]
    gain, saved, time, chosen = stats.NOTHING, stats.NOTHING, stats.NOTHING, math.nan
    if (ends := comparison.ends(own, family.whole)) is not None:
        t = min(ends)
        gain = _gain(runs, own, family.whole, main)
        saved = _saved(own, family.whole, lambda run: _tokens(runs, run, t))
        time = _saved(own, family.whole, lambda run: _seconds(runs, run, t))
        chosen = 100 * float(np.mean([_share(runs, run, t) for run in own]))
    control = _control(runs, family, name)
    over = stats.NOTHING if control is None else _gain(runs, own, family.curricula[control], main)
    intervals = {"saved": saved, "time": time, "gain": gain, "over": over}
    row: dict[str, object] = {}
    for key, interval in intervals.items():
        row |= spread(key, interval)
    return row | {
        "objective": family.label, "curriculum": name, "kind": _prompts(own[0]),
        "num_seeds": len({run.seed for run in own}), "chosen": chosen, "p_alone": gain.p,
        "control": control or "-", "verdict": verdict(saved, gain, main),
    }  # fmt: skip


def _control(runs: Runs, family: Family, name: str) -> str | None:
    """The random draw that leaves out about as many prompts; None for a draw, or without one."""
    draws = {other: of for other, of in family.curricula.items() if _prompts(of[0]) == "random"}
    if name in draws or not draws:
        return None

    def share(of: Sequence[Run]) -> float:
        return float(np.mean([_share(runs, run, max(run.folder.iterations())) for run in of]))

    wanted = share(family.curricula[name])
    return min(draws, key=lambda other: (abs(share(draws[other]) - wanted), other))


def _gain(runs: Runs, a: Sequence[Run], b: Sequence[Run], main: Measure) -> Interval:
    ends = comparison.ends(a, b)
    if ends is None or not main.better:
        return stats.NOTHING
    return comparison.gain_of(runs, Side(a, ends[0]), Side(b, ends[1]), main)


def _saved(a: Sequence[Run], b: Sequence[Run], cost: Callable[[Run], float]) -> Interval:
    """Percent of b's cost that a does without, seed by seed."""
    of_b = {run.seed: cost(run) for run in b}
    shares = [100 * (1 - cost(run) / of_b[run.seed]) for run in a if of_b.get(run.seed)]
    return stats.mean_interval(shares)


def _tokens(runs: Runs, run: Run, t: int) -> float:
    return sum(runs.sampled(run, k).tokens for k in range(1, t + 1))


def _share(runs: Runs, run: Run, t: int) -> float:
    """Of the prompts that were chosen, in the mean over iterations 1 to t."""
    shares = [runs.sampled(run, k).share for k in range(1, t + 1)]
    return float(np.mean(shares)) if shares else math.nan


def _seconds(runs: Runs, run: Run, t: int) -> float:
    spent = (runs.seconds(run, k) for k in range(1, t + 1))
    return sum(seconds.get(stage, 0.0) for seconds in spent for stage in STAGES)


def _prompts(run: Run) -> str:
    return str(run.values.get(f"{KEY}prompts", "all"))


def _drawn(frame: pd.DataFrame, main: Measure) -> style.Figure:
    """Tokens sampled against the difference from all prompts; a point for each curriculum."""
    shown = frame.dropna(subset=["saved", "gain"])
    drawn, axes = style.one_panel((4.6, 3.2), empty=shown.empty)
    if shown.empty:
        return drawn
    axes.axhline(0.0, color="#666666", linewidth=0.8)
    if main.unit == "%":
        axes.axhline(-LOST, color="#666666", linewidth=0.8, linestyle=":")
    several = frame["objective"].nunique() > 1
    for row in shown.to_dict("records"):
        colour, marker = KINDS[row["kind"]]
        mean, low, high = (row[f"gain{end}"] for end in ("", LOW, HIGH))
        bar = style.reach(mean, low, high)
        label = f"{row['objective']}, {row['kind']}" if several else row["kind"]
        axes.errorbar(100 - row["saved"], mean, yerr=bar, capsize=2, color=colour, marker=marker,
                      linestyle="none", label=label)  # fmt: skip
    unit = "points" if main.unit == "%" else main.unit
    axes.set(xlabel="tokens of y' sampled (% of all prompts')",
             ylabel=f"{main.title} over all ({unit})")  # fmt: skip
    style.legend(drawn, columns=4)
    return drawn
