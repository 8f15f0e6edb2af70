"""Every objective against T-SPIN on the same triplets: each at its own learning rate (rivals), and
all at one that is too large (stress). p-values are corrected for the number of rivals (Holm)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.figures import change, comparison, style
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
from analysis.reading import bench, measures, missing, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs
from tspin.config.objective import built_in
from tspin.tools.intervals import Interval

NAMES = ("rivals", "stress")
AGAINST = "tspin"
SWEEP = "objectives"
LOGP = measures.HELDOUT["logp"]
PANELS = {"over": "{}, minus T-SPIN", "moved": "log pi(y), moved (nats)"}
COOL = measures.HELDOUT["exact_match,cool"]
FRAME = ["label", "lr", "seeds", "start",
         *(key + end for key in ("end", "over") for end in ("", LOW, HIGH)), "p",
         *(key + end for key in ("moved", "cool") for end in ("", LOW, HIGH))]  # fmt: skip


def build(runs: Runs, name: str) -> list[Piece]:
    """A table and a figure for every setting of test prompts."""
    tested = runs.where(lambda run: run.setting.split == "test")
    return of_settings(tested, name, lambda part, at, named: _of_setting(part, at, named, name))


def _of_setting(runs: Runs, setting: Setting, named: str, name: str) -> list[Piece]:
    if name == "rivals":
        chosen, rate = bench.plain(bench.tuned(runs)), None
        how = "each at its own learning rate"
    else:
        chosen, rate = bench.plain(bench.stressed(runs)), bench.stress(runs)
        how = "all at one learning rate" + ("" if rate is None else f", {rate:g}")
    main = measures.main_of(chosen)
    frame = table(chosen, main)
    more = [f"{bench.LR}={rate:g}"] if rate is not None else []
    if name == "stress" and rate is None:
        way = missing.command(SWEEP, runs, setting, f"{bench.LR}=3e-4")
        lines = [f"no one learning rate for all, {setting}{way}"]
    else:
        lines = _absent(chosen, setting, *more)
        lines += missing.iterations(chosen) + missing.seeds(chosen, SWEEP, setting, *more)
    caption = (
        f"{main.opening} of every objective after its last iteration, {setting}, {how}: mean and "
        "95% interval over seeds; the difference from T-SPIN over seeds and, where known, prompts, "
        "p corrected for the number of rivals (Holm); and how far the mean log pi(y) of held-out "
        "prompts has moved since the initial policy."
    )
    columns = (
        Column("label", "objective"), Column("lr", "learning rate"), Column("seeds", "seeds"),
        Column("start", "start", main.digits), Column("end", main.axis, main.digits, main.better),
        Column("over", "minus T-SPIN", main.digits, signed=True),
        Column("p", "p (Holm)", 3, least=True),
        Column("moved", "log pi(y) moved (nats)", LOGP.digits, signed=True),
        Column("cool", COOL.axis, COOL.digits),
    )  # fmt: skip
    pieces: list[Piece] = [Table(named, caption, columns, frame, missing=lines)]
    if not frame[[*PANELS]].isna().all(axis=None):
        pieces.append(Drawing(f"{named}-figure", caption, _forest(frame, main), frame))
    return pieces


def _absent(runs: Runs, setting: Setting, *more: str) -> list[str]:
    """A line about the objectives of ours that were not run. more: words of the command"""
    present = {run.loss for run in runs}
    names = sorted({kind.name for kind in built_in() if kind.name} - present)
    way = missing.command(SWEEP, runs, setting, *more)
    return [f"no run with loss={', '.join(names)} ({setting}){way}"] if names else []


def table(runs: Runs, main: Measure) -> pd.DataFrame:
    """A row for each objective, the best first. -> columns FRAME"""
    of_loss = runs.grouped(lambda run: run.loss)
    against = of_loss.get(AGAINST, [])
    rows, alone = [], []
    for members in of_loss.values():
        gain = over(runs, members, against, main) if members is not against else stats.NOTHING
        rows.append(worth(runs, members, main) | spread("over", gain))
        alone.append(gain.p)
    frame = pd.DataFrame(rows, columns=FRAME).assign(p=stats.holm(alone))
    order = (main.better or 1) * frame["end"].astype(float)
    return frame.loc[order.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def worth(runs: Runs, members: Sequence[Run], main: Measure) -> dict[str, object]:
    """A method by itself after its last common iteration: columns of FRAME."""
    rates = {run.values.get(bench.LR) for run in members}
    row: dict[str, object] = {
        "label": members[0].values["loss.label"], "seeds": len({run.seed for run in members}),
        "lr": f"{rates.pop()}" if len(rates) == 1 else None,
    }  # fmt: skip
    changed = change.of(runs, members, main) if main.key else None
    if changed is not None:
        values = measures.values(runs, [main, COOL])
        names = {run.name for run in members}
        ends = values[(values["iteration"] == changed.t) & values["run"].isin(names)]
        for key, measure in (("end", main), ("cool", COOL)):
            of_measure = ends.loc[ends["key"] == measure.key, "value"]
            row |= spread(key, stats.mean_interval(of_measure.to_numpy()))
        row["start"] = changed.start
    moved = change.of(runs, members, LOGP)
    if moved is not None and moved.over is not None:
        row |= spread("moved", moved.over)
    return row


def over(runs: Runs, a: Sequence[Run], b: Sequence[Run], main: Measure) -> Interval:
    """A minus B after their last common iteration."""
    ends = comparison.ends(a, b)
    if ends is None or not main.key:
        return stats.NOTHING
    gain = comparison.gain_of(runs, Side(a, ends[0]), Side(b, ends[1]), main)
    return gain.turned(main.better or 1)


def _forest(frame: pd.DataFrame, main: Measure) -> style.Figure:
    """A panel for the difference from T-SPIN, one for what log pi(y) has moved, where it is known;
    the zero line."""
    height = max(1.6, 0.6 + 0.2 * len(frame))
    known = [key for key in PANELS if frame[key].notna().any()]
    drawn = style.figure(1, len(known), panel=(3.4, height))
    for axes, key in zip(drawn.axes, known, strict=True):
        title = PANELS[key].format(main.axis.replace("(%)", "(points)"))
        axes.axvline(0.0, color="#666666", linewidth=0.8)
        for place, row in enumerate(frame.to_dict("records")):
            mean, low, high = (float(row[key + end]) for end in ("", LOW, HIGH))
            if math.isnan(mean):
                continue
            bar = style.reach(mean, low, high)
            axes.errorbar(mean, -place, xerr=bar, capsize=2, color=style.colour(row["label"]),
                          marker=style.marker(row["label"]))  # fmt: skip
        labels = frame["label"].tolist() if axes is drawn.axes[0] else [""] * len(frame)
        axes.set_yticks([-place for place in range(len(frame))], labels)
        axes.set(xlabel=title, ylim=(0.6 - len(frame), 0.6))
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
    return drawn
