"""What an anchor of log pi(y) does to an objective: under one learning rate that is too large, and
at the objective's own. The strength of each is chosen on validation prompts (sweeps/anchors.yaml).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.figures import style
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
from analysis.figures.rivals import LOGP, over, worth
from analysis.reading import bench, measures, missing, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs
from analysis.reading.stats import bands

NAMES = ("anchors",)
SWEEP = "anchors"
DRAWN = "tspin"  # with each of its anchors, beside
BESIDE = "spin"
QUESTIONS = {"stress": "under stress", "tuned": "tuned"}
FRAME = ["objective", "anchor",
         *(f"{question}_{key}{end}" for question in QUESTIONS
           for key in ("end", "over", "moved") for end in ("", LOW, HIGH)),
         *(f"{question}_p" for question in QUESTIONS)]  # fmt: skip


def build(runs: Runs, name: str = "anchors") -> list[Piece]:
    """A table and curves for every setting of test prompts."""
    tested = runs.where(lambda run: run.setting.split == "test")
    return of_settings(tested, name, _of_setting)


def _of_setting(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    parts = {"stress": bench.stressed(runs), "tuned": bench.tuned(runs)}
    main = measures.main_of(parts["tuned"])
    frame = table(parts, main)
    lines = [line for part in parts.values() for line in missing.iterations(part)]
    if frame.empty:
        lines.append(f"no run with an anchor{missing.command(SWEEP, runs, setting)}")
    rate = bench.stress(runs)
    stressed = "one learning rate for all" + ("" if rate is None else f", {rate:g}")
    caption = (
        f"Objectives with an anchor of log pi(y) after the last iteration, {setting}, under stress "
        f"({stressed}) and at the learning rate of the objective alone: mean and 95% interval over "
        "seeds; the difference from the objective without it over seeds and, where known, prompts, "
        "p corrected for the number of anchors (Holm); and how far the mean log pi(y) of held-out "
        "prompts has moved since the initial policy."
    )
    columns = [Column("objective", "objective"), Column("anchor", "anchor")]
    for question, words in QUESTIONS.items():
        columns += [
            Column(f"{question}_end", f"{main.axis}, {words}", main.digits, main.better),
            Column(f"{question}_over", "minus none", main.digits, signed=True),
            Column(f"{question}_p", "p (Holm)", 3, least=True),
            Column(f"{question}_moved", "log pi(y) moved (nats)", LOGP.digits, signed=True),
        ]  # fmt: skip
    drawn, data = _curves(parts, main)
    if frame.empty:  # of other objectives alone: they have figures of their own
        data = data.iloc[:0]
    return [
        Table(name, caption, tuple(columns), frame, "objective", lines),
        Drawing(f"{name}-figure", caption, drawn, data),
    ]


def table(parts: dict[str, Runs], main: Measure) -> pd.DataFrame:
    """A row for each objective that was run with an anchor, and each anchor. -> columns FRAME

    parts  question -> its runs
    """
    every = [run for part in parts.values() for run in part]
    losses = dict.fromkeys(run.loss for run in every if bench.kind(run))
    rows: list[dict[str, object]] = []
    for loss in losses:
        anchors = {bench.anchor(run): bench.kind(run) for run in every if run.loss == loss}
        for anchor in sorted(anchors, key=lambda it: (_place(anchors[it]), it)):
            row: dict[str, object] = {"anchor": anchor or "none"}
            for question, part in parts.items():
                members, alone = bench.of(part, loss, anchor), bench.of(part, loss)
                if not members:
                    continue
                row["objective"] = members[0].values["loss.label"]
                gain = over(part, members, alone, main) if anchor and alone else stats.NOTHING
                numbers = worth(part, members, main) | spread("over", gain) | {"p": gain.p}
                row |= {f"{question}_{key}": value for key, value in numbers.items()}
            rows.append(row)
    frame = pd.DataFrame(rows, columns=FRAME)
    for question in QUESTIONS:
        frame[f"{question}_p"] = stats.holm(frame[f"{question}_p"].tolist())
    order = {label: i for i, label in enumerate(style.in_order(frame["objective"]))}
    return frame.sort_values(
        "objective", key=lambda c: c.map(order), kind="stable", ignore_index=True
    )


def _place(kind: str) -> int:
    """None first, then in the order of the fields of Anchors, several together last."""
    order = ("", *bench.KINDS)
    return order.index(kind) if kind in order else len(order)


def _curves(parts: dict[str, Runs], main: Measure) -> tuple[style.Figure, pd.DataFrame]:
    """The main number and log pi(y) over iterations: T-SPIN with anchors and without, and SPIN."""
    rows = []
    for question, part in parts.items():
        drawn_runs = [*(run for run in part if run.loss == DRAWN), *bench.of(part, BESIDE)]
        names = {run.name: _line(run) for run in drawn_runs}
        values = measures.values(part, [main, LOGP])
        values = values[values["run"].isin(names)]
        rows.append(values.assign(line=values["run"].map(names), question=question))
    data = bands(pd.concat(rows, ignore_index=True), ["question", "line", "key", "iteration"])
    lines = list(dict.fromkeys(data["line"]))
    drawn = style.figure(len(QUESTIONS), 2)
    panels = [(question, measure) for question in QUESTIONS for measure in (main, LOGP)]
    for axes, (question, measure) in zip(drawn.axes, panels, strict=True):
        own = data[(data["question"] == question) & (data["key"] == measure.key)]
        for line in lines:
            style.curve(
                axes, own[own["line"] == line], "iteration", label=line, color=_colour(line, lines),
                marker=style.marker(line.split(",")[0]),
            )  # fmt: skip
        axes.set(ylabel=measure.axis, title=QUESTIONS[question])
        style.iterations(axes, data["iteration"])
    style.legend(drawn, columns=3)
    return drawn, data


def _line(run: Run) -> str:
    label = str(run.values["loss.label"])
    return f"{label}, {bench.anchor(run)}" if bench.kind(run) else label


def _colour(line: str, lines: Sequence[str]) -> str:
    """An objective's own; of its anchors, one each."""
    anchored = [other for other in lines if "," in other]
    if line not in anchored:
        return style.colour(line)
    return style.OTHER_COLOURS[anchored.index(line) % len(style.OTHER_COLOURS)]
