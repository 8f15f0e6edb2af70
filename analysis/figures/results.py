"""Methods over iterations: Tables 1, 2 and 4, Figures 2, 5, 6 and 4b.

A row is what an iteration left; its change is that of the main number since the iteration before,
paired by run. A method is an objective as configured by default: variants of it (another alpha,
another learning rate) have figures of their own, but for SFT on other numbers of pairs. Where the
paper compares methods, those of others that were run, and anchored ones, are rows, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import HIGH, LOW, Column, Drawing, Piece, Table, of_settings
from analysis.reading import measures, missing, paper
from analysis.reading.measures import AVERAGE, Measure
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import BASE, Runs
from analysis.reading.stats import bands, within

DELTA = "delta"
START = "initial policy"


@dataclass(frozen=True)
class Plan:
    """One table or figure of the paper."""

    what: str
    losses: tuple[str, ...]
    sweep: str
    table: str  # which of the paper's holds its numbers
    panels: tuple[str, ...] = ()  # of a figure: tasks; () makes a table
    mistral: bool | None = None  # None: of any model
    open: bool = False  # objectives that the paper does not have, and anchored ones, belong to it

    def covers(self, setting: Setting) -> bool:
        """Tables 1 and 4 are the same of two base models; the rest is of any."""
        return self.mistral is None or ("mistral" in setting.model) == self.mistral

    def shows(self, run: Run) -> bool:
        """An objective as configured by default, SFT on other numbers of pairs too; where it is
        open, any that the paper does not have, and with an anchor."""
        sized = run.loss == "sft" and run.differs_only_in("data.size")
        belongs = run.loss in self.losses or self.open and run.loss not in paper.LOSSES
        return belongs and (run.is_main or sized or self.open and run.is_anchored)

    def owns(self, run: Run) -> bool:
        """Of those shown: whether it is of the paper's comparison, not beside it."""
        return run.loss in self.losses and not run.is_anchored


WHAT, USUAL = "SFT, SPIN and T-SPIN", ("sft", "spin", "tspin")
HISTORY = "T-SPIN without and with its historical advantage", ("wo_ha", "tspin")
FIRST = ("gsm8k", "leaderboard_ifeval", AVERAGE)
ABLATION = ("gsm8k", "leaderboard_math_hard", "leaderboard_ifeval")
PLANS = {
    "table1": Plan(WHAT, USUAL, "table1", "table1", mistral=False, open=True),
    "figure2": Plan(WHAT, USUAL, "table1", "table1", FIRST, mistral=False, open=True),
    "table2": Plan(*HISTORY, "table2", "table2"),
    "figure5": Plan(*HISTORY, "table2", "table2", ABLATION),
    "table4": Plan(f"{WHAT} from Mistral", USUAL, "table4", "table4", mistral=True, open=True),
    "figure6": Plan(f"{WHAT} from Mistral", USUAL, "table4", "table4", FIRST, mistral=True,
                    open=True),
    "figure4b": Plan("T-SPIN without and with a reference policy", ("tspin", "tspin_ref"),
                     "figure4b", "table1", (AVERAGE,)),
}  # fmt: skip
NAMES = tuple(PLANS)


def build(runs: Runs, name: str, *, with_paper: bool = False) -> list[Piece]:
    """A piece for every setting that the plan covers, and the paper's own beside.

    name        one of NAMES
    with_paper  adds NAME-paper, made by the same code from the paper's numbers
    """
    plan = PLANS[name]
    covered = runs.where(lambda run: plan.covers(run.setting))
    pieces = of_settings(covered, name, lambda of, at, named: [_of_setting(of, at, named, plan)])
    if not len(covered):
        lines = [f"no run of it{missing.command(plan.sweep, runs, None)}"]
        pieces.append(_piece(name, plan, plan.what, measures.values(covered, []), [], lines, {}))
    if with_paper:
        pieces.append(_of_paper(plan, name))
    return pieces


def rows(
    values: pd.DataFrame, shown: Sequence[Measure], pairs: Mapping[str, float]
) -> pd.DataFrame:
    """label, pairs, iteration, seeds, and of every measure and of the change: mean, interval.

    values  as measures.values gives them
    pairs   label -> number of annotated pairs
    """
    main = measures.main_number(shown)
    start = values[values["iteration"] == BASE].drop_duplicates(["seed", "key"])
    after = values[values["iteration"] != BASE]
    every = pd.concat([start.assign(label=START), after], ignore_index=True)
    changes = _changes(values[values["key"] == main.key])
    banded = bands(pd.concat([every, changes], ignore_index=True), ["label", "iteration", "key"])
    ends = {"mean": "", "low": LOW, "high": HIGH}
    keys = [key + end for key in (*(m.key for m in shown), DELTA) for end in ends.values()]
    wide = banded.pivot(index=["label", "iteration"], columns="key", values=[*ends])
    wide.columns = [key + ends[part] for part, key in wide.columns]
    wide = wide.reindex(columns=keys).reset_index()
    seeds = every.groupby(["label", "iteration"])["seed"].nunique().rename("seeds").reset_index()
    order = {label: i for i, label in enumerate([START, *style.in_order(after["label"])])}
    wide = wide.merge(seeds).sort_values(
        ["label", "iteration"], key=lambda s: s.map(order) if s.name == "label" else s
    )
    wide["iteration"] = wide["iteration"].astype("Int64").replace(BASE, pd.NA)
    wide["pairs"] = wide["label"].map(pairs).astype(float)
    return wide[["label", "pairs", "iteration", "seeds", *keys]].reset_index(drop=True)


def columns(shown: Sequence[Measure]) -> tuple[Column, ...]:
    """Of a table of `rows`."""
    main = measures.main_number(shown)
    return (
        Column("label", "method"),
        *(Column(key, key) for key in ("pairs", "iteration", "seeds")),
        *(Column(m.key, m.axis, m.digits, m.better) for m in shown),
        *([Column(DELTA, f"change of {main.title}", main.digits, signed=True)] if shown else []),
    )


def panels(values: pd.DataFrame, shown: Sequence[Measure]) -> tuple[style.Figure, pd.DataFrame]:
    """A panel for each measure, a line for each method over iterations; and the data drawn."""
    values = values[values["key"].isin([m.key for m in shown])]
    labels = style.in_order(values.loc[values["iteration"] != BASE, "label"])
    data = bands(values, ["key", "label", "iteration"])
    shares = data["key"].isin([m.key for m in shown if m.unit == "%"])
    data[shares] = within(data[shares], 0.0, 100.0)
    drawn = style.figure(1, max(len(shown), 1))
    strokes = style.strokes(labels)
    if not shown or not labels:
        style.blank(drawn.axes[0], "no runs")
    for axes, measure in zip(drawn.axes, shown, strict=False):
        for label in labels:
            line = data[(data["key"] == measure.key) & (data["label"] == label)]
            style.method(axes, line, "iteration", label, linestyle=strokes[label])
            after = line.loc[line["iteration"] != BASE, "mean"]
            if len(after) == 1:  # not iterated: a level to compare with
                level = float(after.iloc[0])
                axes.axhline(level, color=style.colour(label), linestyle=":", linewidth=0.8)
        axes.set_ylabel(measure.axis)
        style.iterations(axes, data["iteration"])
    style.legend(drawn)
    return drawn, data


def _of_setting(runs: Runs, setting: Setting, name: str, plan: Plan) -> Piece:
    chosen = runs.where(plan.shows)
    shown = measures.columns(chosen)
    values = measures.values(chosen, shown)
    lines = missing.objectives(chosen, plan.losses, plan.sweep, setting)
    lines += missing.iterations(chosen) + missing.numbers(chosen, values, shown)
    own, others = chosen.where(plan.owns), chosen.where(lambda run: not plan.owns(run))
    lines += missing.seeds(own, plan.sweep, setting)
    for label in others.labels():
        lines += _seeds_beside(others, label, plan, setting)
    beside = ", and objectives beside them" if len(others) else ""
    caption = f"{plan.what}{beside}, {setting}"
    return _piece(name, plan, caption, values, shown, lines, chosen.pairs())


def _seeds_beside(others: Runs, label: str, plan: Plan, setting: Setting) -> list[str]:
    """missing.seeds of one method that the sweep has by its name alone."""
    members = others.where(lambda run: run.label == label)
    (run, *_) = members
    words = [f"{key}={value}" for key, value in run.variant.items()]
    return missing.seeds(members, plan.sweep, setting, f"loss={run.loss}", *words)


def _of_paper(plan: Plan, name: str) -> Piece:
    values = paper.values(plan.table)
    if name == "figure4b":  # the paper prints T-SPIN_ref as a curve only
        values = values[values["label"] == "T-SPIN"]
    caption = f"{plan.what}, as the paper prints them ({paper.SOURCE})"
    if notes := paper.notes(plan.table):
        caption += "; marked: " + "; ".join(notes)
    pairs = {label: paper.PAIRS.get(label, paper.USUAL_PAIRS) for label in values["label"]}
    shown = [*map(measures.benchmark, measures.TASKS), measures.percent(AVERAGE, "Avg")]
    return _piece(f"{name}-paper", plan, caption, values, shown, [], pairs)


def _piece(
    name: str,
    plan: Plan,
    caption: str,
    values: pd.DataFrame,
    shown: list[Measure],
    lines: list[str],
    pairs: Mapping[str, float],
) -> Piece:
    several = values.groupby(["label", "iteration", "key"])["seed"].nunique().max() > 1
    caption += ". Mean and 95% interval over seeds." if several else "."
    if plan.panels:
        drawn, data = panels(values, _chosen(shown, plan.panels))
        return Drawing(name, caption, drawn, data, lines)
    return Table(name, caption, columns(shown), rows(values, shown, pairs), "label", lines)


def _chosen(shown: Sequence[Measure], wanted: Sequence[str]) -> list[Measure]:
    """The tasks that the paper plots; else the average; else the held-out numbers, three at most.

    One panel asked for is the main number.
    """
    of_paper = [measure for measure in shown if measure.key in wanted]
    main = measures.main_number(shown)
    if of_paper or len(wanted) > 1 and main.key != AVERAGE:
        return of_paper or list(shown[:3])
    return [main][: len(shown)]


def _changes(values: pd.DataFrame) -> pd.DataFrame:
    """The change of a number since the iteration before, in every run."""
    before = values.assign(iteration=values["iteration"] + 1)
    keys = ["label", "run", "seed", "iteration"]
    both = values.merge(before[[*keys, "value"]], on=keys, suffixes=("", "_before"))
    return both.assign(key=DELTA, value=both["value"] - both["value_before"])
