"""Training dynamics: Figure 3 (rewards, log-likelihoods and the contingency table of one
iteration) and Figure 7 (log-likelihoods and their gap over iterations).

Numbers are the batch means that training recorded, averaged over twentieths of an iteration so
that seeds meet at the same places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import style
from analysis.figures.pieces import Drawing, Piece
from analysis.reading import missing
from analysis.reading.runs import CELLS, Runs, Setting
from analysis.reading.stats import bands

NAMES = ("figure3", "figure7")
LOSSES = ("spin", "tspin")
ROLES = ("annotated", "synthetic")
BINS = 20
GAP = "gap"
UNIT = "nats"


def build(
    runs: Runs, name: str, *, with_paper: bool = False, iteration: int = 1, last: int = 2
) -> list[Piece]:
    """iteration: which one Figure 3 shows; last: where Figure 7 ends. with_paper adds nothing:
    the paper gives these as pictures, without numbers."""
    settings = runs.settings()
    pieces: list[Piece] = []
    for setting in settings:
        named = name if len(settings) == 1 else f"{name}-{setting.slug}"
        chosen = runs.of(setting).where(lambda run: run.is_main and run.loss in LOSSES)
        pieces.append(
            _figure3(chosen, setting, named, iteration)
            if name == "figure3"
            else _figure7(chosen, setting, named, last)
        )
    return pieces


def curves(runs: Runs, iterations: Sequence[int], keys: Sequence[str]) -> pd.DataFrame:
    """label, seed, iteration, progress (iterations done, e.g. 1.3), key, value: binned means."""
    index, parts = ["label", "seed", "iteration", "progress"], []
    for run in runs:
        for t in iterations:
            steps = runs.steps(run, t) if t in run.folder.iterations() else pd.DataFrame()
            there = [key for key in keys if key in steps]
            if there:
                place = np.ceil(steps["progress"].to_numpy() * BINS).clip(1, BINS) / BINS + t
                binned = steps[there].groupby(place).mean().rename_axis("progress").reset_index()
                binned[index[:3]] = run.label, run.seed, t
                parts.append(binned)
    if not parts:
        return pd.DataFrame(columns=[*index, "key", "value"])
    return pd.concat(parts).melt(index, var_name="key").dropna(subset=["value"])


def _figure3(runs: Runs, setting: Setting, name: str, t: int) -> Drawing:
    keys = [f"{kind}/{role}" for kind in ("rewards", "logps") for role in ROLES]
    data = bands(curves(runs, [t], keys), ["label", "iteration", "progress", "key"])
    table = runs.contingency
    table = table[(table["iteration"] == t) & (table["split"] == "train")]
    labels = style.in_order(runs.labels())
    drawn = style.figure(max(len(labels), 1), 3)
    axes = np.array(drawn.axes).reshape(-1, 3)
    if not labels:
        style.blank(axes[0, 0], "no runs")
    for row, label in zip(axes, labels, strict=False):
        for panel, kind, title in (
            (row[0], "rewards", "reward"), (row[1], "logps", "log-likelihood"),
        ):  # fmt: skip
            _roles(panel, data[data["label"] == label], kind, percent_of=t)
            panel.set_title(label)
            panel.set_xlabel(f"training of iteration {t} (%)")
            panel.set_ylabel(f"{title} ({UNIT})")
        _cells(row[2], table[table["label"] == label], label)
    style.legend(drawn)
    counted = table.groupby("label")[["num_prompts", *CELLS]].mean().reset_index()
    counted = counted.melt(["label", "num_prompts"], CELLS, "key", "mean")
    data = pd.concat(
        [data, counted.assign(key="contingency/" + counted["key"], iteration=t)],
        ignore_index=True,
    )
    caption = (
        "Rewards and log-likelihoods, sums over tokens, of annotated and synthetic responses "
        f"while iteration {t} trains, and on how many training prompts y is above y' after it, "
        f"{setting}. Mean and 95% interval over seeds."
    )
    lines = missing.objectives(runs, LOSSES, "figure3", setting) + missing.iterations(runs, [t])
    return Drawing(name, caption, drawn, data, tuple(lines))


def _figure7(runs: Runs, setting: Setting, name: str, last: int) -> Drawing:
    iterations = range(last + 1)
    found = curves(runs, iterations, [f"logps/{role}" for role in ROLES])
    keys = ["label", "seed", "iteration", "progress"]
    wide = found.pivot(index=keys, columns="key", values="value")
    wide = wide.reindex(columns=[f"logps/{role}" for role in ROLES])
    gap = (wide["logps/annotated"] - wide["logps/synthetic"]).rename("value").reset_index()
    data = bands(pd.concat([found, gap.assign(key=GAP)]), ["label", "iteration", "progress", "key"])
    labels = style.in_order(runs.labels())
    drawn = style.figure(1, len(labels) + 1)
    *panels, behind = drawn.axes
    for axes, label in zip(panels, labels, strict=True):
        _roles(axes, data[data["label"] == label], "logps")
        axes.set_title(label)
        axes.set_ylabel(f"log-likelihood ({UNIT})")
    for label in labels:
        of = data[(data["label"] == label) & (data["key"] == GAP)]
        _pieces(behind, of, label=label, color=style.colour(label))
    behind.set_title("gap log p(y) - log p(y')")
    behind.set_ylabel(f"gap ({UNIT})")
    for axes in drawn.axes:
        axes.set_xlabel("iterations of training")
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
    return Drawing(name, caption, drawn, data, tuple(lines))


def _roles(axes: Axes, data: pd.DataFrame, kind: str, percent_of: int | None = None) -> None:
    """y and y' of one method; over percent of one iteration, or over iterations."""
    for role in ROLES:
        line = data[data["key"] == f"{kind}/{role}"]
        if percent_of is not None:
            line = line.assign(progress=(line["progress"] - percent_of) * 100)
        _pieces(axes, line, label=style.NAMES[role], color=style.ROLES[role])


def _pieces(axes: Axes, line: pd.DataFrame, *, label: str, color: str) -> None:
    """A line that breaks between iterations, where the responses change."""
    for _, part in line.groupby("iteration"):
        style.curve(axes, part, "progress", label=label, color=color)


def _cells(axes: Axes, table: pd.DataFrame, label: str) -> None:
    """The 2 x 2 table of Figure 3: shares of the training prompts, mean over seeds."""
    axes.set_title(label)
    shares = table[list(CELLS)].mean()
    if shares.isna().any():
        style.blank(axes, "no contingency table")
        return
    both, reward_only, logp_only, neither = (float(shares[cell]) for cell in CELLS)
    square = np.array([[both, reward_only], [logp_only, neither]])
    axes.imshow(square, cmap=style.MAP, vmin=0, vmax=1)
    for i, j in np.ndindex(2, 2):
        text = f"{100 * square[i, j]:.1f}%\n{square[i, j] * table['num_prompts'].mean():.0f}"
        color = "white" if square[i, j] < 0.5 else "black"
        axes.text(j, i, text, ha="center", va="center", color=color)
    axes.set_xticks([0, 1], ["log p(y) > log p(y')", "not"])
    axes.set_yticks([0, 1], ["r(y) > r(y')", "not"], rotation=90, va="center")
    axes.grid(visible=False)
