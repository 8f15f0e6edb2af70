"""Training dynamics: Figure 3 (rewards, log-likelihoods and the contingency table of one
iteration), Figure 7 (log-likelihoods and their gap over iterations), and what the paper does not
show: that table over all iterations.

Numbers are the batch means that training recorded, averaged over twentieths of an iteration so
that seeds meet at the same places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import style
from analysis.figures.pieces import Drawing, Piece, of_settings
from analysis.reading import missing
from analysis.reading.methods import Setting
from analysis.reading.runs import Runs
from analysis.reading.stats import bands, within
from tspin.objectives.contingency import CELLS

NAMES = ("figure3", "figure7", "contingency")
LOSSES = ("spin", "tspin")
PAIRS = ("spin", "tspin", "tspin_ref", "wo_ha")  # the paper's objectives that compare responses
ROLES = ("annotated", "synthetic")
LOGPS = [f"logps/{role}" for role in ROLES]
INDEX = ["label", "seed", "iteration", "progress"]
BINS = 20
GAP = "gap"
UNIT = "nats"


def build(runs: Runs, name: str, *, iteration: int = 1, last: int = 2) -> list[Piece]:
    """iteration: which one Figure 3 shows; last: where Figure 7 ends. The paper gives these as
    pictures, without numbers."""

    def make(part: Runs, setting: Setting, named: str) -> list[Piece]:
        usual = part.where(lambda run: run.is_main)
        if name == "contingency":  # SFT has no pair
            return [_contingency(usual.where(lambda run: run.loss != "sft"), setting, named)]
        chosen = usual.where(lambda run: run.loss in LOSSES)
        if name == "figure3":
            return [_figure3(chosen, setting, named, iteration)]
        return [_figure7(chosen, setting, named, last)]

    return of_settings(runs, name, make)


def _curves(runs: Runs, iterations: Sequence[int], keys: Sequence[str]) -> pd.DataFrame:
    """label, seed, iteration, progress (iterations done, e.g. 1.3), key, value: binned means."""
    parts = []
    for run in runs:
        for t in sorted({*iterations} & {*run.folder.iterations()}):
            steps = runs.steps(run, t)
            recorded = [key for key in keys if key in steps]
            if recorded:
                place = np.ceil(steps["progress"].to_numpy() * BINS).clip(1, BINS) / BINS + t
                binned = steps[recorded].groupby(place).mean().rename_axis("progress").reset_index()
                binned[INDEX[:3]] = run.label, run.seed, t
                parts.append(binned)
    if not parts:
        return pd.DataFrame(columns=[*INDEX, "key", "value"])
    return pd.concat(parts).melt(INDEX, var_name="key").dropna(subset=["value"])


def _broken_line(axes: Axes, line: pd.DataFrame, *, label: str, color: str) -> None:
    """A line that breaks between iterations, where the responses change."""
    for _, part in line.groupby("iteration"):
        style.curve(axes, part, "progress", label=label, color=color)


def _figure3(runs: Runs, setting: Setting, name: str, t: int) -> Drawing:
    keys = [f"rewards/{role}" for role in ROLES] + LOGPS
    data = bands(_curves(runs, [t], keys), ["label", "iteration", "progress", "key"])
    table = runs.contingency
    table = table[(table["iteration"] == t) & (table["split"] == "train")]
    labels = style.in_order(runs.labels())
    drawn = style.figure(max(len(labels), 1), 3)
    axes = np.array(drawn.axes).reshape(-1, 3)
    if not labels:
        style.blank(axes[0, 0], "no runs")
    for row, label in zip(axes, labels, strict=False):
        of_label = data[data["label"] == label]
        percent = of_label.assign(progress=(of_label["progress"] - t) * 100)
        kinds = ("rewards", "reward"), ("logps", "log-likelihood")
        for panel, (kind, title) in zip(row, kinds, strict=False):
            _roles(panel, percent, kind)
            xlabel, ylabel = f"training of iteration {t} (%)", f"{title} ({UNIT})"
            panel.set(title=label, xlabel=xlabel, ylabel=ylabel)
        _cells(row[2], table[table["label"] == label], label)
    style.legend(drawn)
    counted = table.groupby("label")[["num_prompts", *CELLS]].mean().reset_index()
    counted = counted.melt(["label", "num_prompts"], list(CELLS), "key", "mean")
    counted = counted.assign(key="contingency/" + counted["key"], iteration=t)
    data = pd.concat([data, counted], ignore_index=True)
    caption = (
        "Rewards and log-likelihoods, sums over tokens, of annotated and synthetic responses "
        f"while iteration {t} trains, and on how many training prompts y is above y' after it, "
        f"{setting}. Mean and 95% interval over seeds."
    )
    lines = missing.objectives(runs, LOSSES, "figure3", setting) + missing.iterations(runs, [t])
    return Drawing(name, caption, drawn, data, lines)


def _figure7(runs: Runs, setting: Setting, name: str, last: int) -> Drawing:
    iterations = range(last + 1)
    logps = _curves(runs, iterations, LOGPS)
    wide = logps.pivot(index=INDEX, columns="key", values="value").reindex(columns=LOGPS)
    gap = (wide[LOGPS[0]] - wide[LOGPS[1]]).rename("value").reset_index().assign(key=GAP)
    data = bands(pd.concat([logps, gap]), ["label", "iteration", "progress", "key"])
    labels = style.in_order(runs.labels())
    drawn = style.figure(1, len(labels) + 1)
    *panels, behind = drawn.axes
    for axes, label in zip(panels, labels, strict=True):
        of_label = data[data["label"] == label]
        _roles(axes, of_label, "logps")
        axes.set(title=label, ylabel=f"log-likelihood ({UNIT})")
        of_gap = of_label[of_label["key"] == GAP]
        _broken_line(behind, of_gap, label=label, color=style.colour(label))
    behind.set(title="gap log pi(y) - log pi(y')", ylabel=f"gap ({UNIT})")
    for axes in drawn.axes:
        axes.set_xlabel("iteration, from its start")
        for t in iterations:
            axes.axvline(t, color="#999999", linewidth=0.6)
        style.whole_numbers(axes)
    style.legend(drawn)
    caption = (
        "Log-likelihoods, sums over tokens, of annotated and synthetic responses while iterations "
        f"0 to {last} train, and the gap between them, {setting}; y' is sampled anew at every "
        "line. Mean and 95% interval over seeds."
    )
    lines = missing.objectives(runs, LOSSES, "figure7", setting)
    lines += missing.iterations(runs, list(iterations))
    return Drawing(name, caption, drawn, data, lines)


def _contingency(runs: Runs, setting: Setting, name: str) -> Drawing:
    table = runs.contingency
    table = table.assign(misaligned=table["reward_only"] + table["logp_only"])
    index = ["split", "label", "iteration", "key"]
    long = table.melt([*index[:3], "seed"], [*CELLS, "misaligned"], "key").dropna(subset=["value"])
    data = within(bands(long.assign(value=100 * long["value"].astype(float)), index), 0.0, 100.0)
    drawn = style.figure(2, 2)
    splits = ("train", "training"), ("heldout", "held-out")
    panels = [(split, of, key) for split, of in splits for key in ("misaligned", "both")]
    for axes, (split, of, key) in zip(drawn.axes, panels, strict=True):
        for label in style.in_order(runs.labels()):
            line = data[(data["split"] == split) & (data["key"] == key) & (data["label"] == label)]
            style.method(axes, line, "iteration", label)
        axes.set(xlabel="iteration", ylabel=f"{of} prompts, {key} (%)")
        style.whole_numbers(axes)
    style.legend(drawn)
    caption = (
        "On how many prompts both reward and log-likelihood rank the annotated response above the "
        "synthetic one, and on how many only one of them does (misaligned), after each "
        f"iteration, {setting}; ties count as not above. Mean and 95% interval over seeds."
    )
    lines = missing.objectives(runs, PAIRS, "table2", setting) + missing.iterations(runs)
    return Drawing(name, caption, drawn, data, lines)


def _roles(axes: Axes, data: pd.DataFrame, kind: str) -> None:
    """y and y' of one method."""
    for role in ROLES:
        line = data[data["key"] == f"{kind}/{role}"]
        _broken_line(axes, line, label=style.NAMES[role], color=style.ROLES[role])


def _cells(axes: Axes, table: pd.DataFrame, label: str) -> None:
    """The 2 x 2 table of Figure 3: shares of the training prompts, mean over seeds."""
    axes.set_title(label)
    square = table[list(CELLS)].astype(float).mean().to_numpy().reshape(2, 2)
    if np.isnan(square).any():
        style.blank(axes, "no contingency table")
        return
    axes.imshow(square, cmap=style.MAP, vmin=0, vmax=1)
    for i, j in np.ndindex(2, 2):
        text = f"{100 * square[i, j]:.1f}%\n{square[i, j] * table['num_prompts'].mean():.0f}"
        color = "white" if square[i, j] < 0.5 else "black"
        axes.text(j, i, text, ha="center", va="center", color=color)
    axes.set_xticks([0, 1], ["log pi(y) > log pi(y')", "not"])
    axes.set_yticks([0, 1], ["r(y) > r(y')", "not"], rotation=90, va="center")
    axes.grid(visible=False)
