"""What one or two settings do: Figure 4a (number of annotated pairs) and 4c (alpha and beta)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import Drawing, Piece, of_settings
from analysis.reading import measures, missing, paper
from analysis.reading.measures import Measure
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs
from analysis.reading.stats import bands, within

NAMES = ("figure4a", "figure4c")
LOSSES = ("sft", "tspin")
GRID = (0.1, 0.3, 0.5, 1.0)  # of alpha and of beta, Figure 4c


def build(runs: Runs, name: str, *, with_paper: bool = False, iteration: int = 1) -> list[Piece]:
    """iteration: after which one methods are compared; the paper's is 1."""
    make = _figure4a if name == "figure4a" else _figure4c
    pieces = of_settings(runs, name, lambda part, at, named: [make(part, at, named, iteration)])
    if with_paper and name == "figure4a":
        pieces.append(_paper(f"{name}-paper"))
    return pieces


def _figure4a(runs: Runs, setting: Setting, name: str, t: int) -> Drawing:
    """T-SPIN after iteration t; SFT after its first iteration, and after as many steps."""
    chosen = runs.where(lambda run: run.loss in LOSSES and run.differs_only_in("data.size"))
    main = measures.main_of(chosen)
    values = chosen.described(
        measures.values(chosen, [main]), size=chosen.num_pairs, loss=lambda run: run.loss,
        objective=lambda run: run.values["loss.label"],
    )  # fmt: skip
    shown = (values["iteration"] == t) | ((values["loss"] == "sft") & (values["iteration"] == 0))
    data = bands(values[shown], ["objective", "loss", "iteration", "size"])
    if main.unit == "%":
        data = within(data, 0.0, 100.0)
    epochs = {float(run.values.get("optim.epochs", math.nan)) for run in chosen}
    data["epochs"] = (epochs.pop() if len(epochs) == 1 else math.nan) * (data["iteration"] + 1)
    lines = missing.objectives(chosen, LOSSES, "figure4a", setting)
    if data["size"].nunique() < 2:
        lines.append(f"one number of pairs only{missing.command('figure4a', runs, setting)}")
    lines += missing.iterations(chosen.where(lambda run: run.loss == "sft"), [0])
    lines += missing.iterations(chosen.where(lambda run: run.loss != "sft"), [t])
    lines += missing.seeds(chosen, "figure4a", setting)
    caption = (
        f"{main.opening} against the number of annotated pairs, {setting}: "
        f"T-SPIN after iteration {t}, SFT after its first iteration and after as many steps. Mean "
        "and 95% interval over seeds."
    )
    return Drawing(name, caption, _over_sizes(data, main), data, lines)


def _paper(name: str) -> Drawing:
    data = paper.table("figure4a").rename(columns={"avg": "mean", "method": "objective"})
    data = data.assign(low=math.nan, high=math.nan, n=1, loss=data["objective"].str.lower())
    data["iteration"] = np.where(data["objective"] == "SFT", 0, 1)
    caption = f"The points of Figure 4a that the paper gives as numbers ({paper.SOURCE})."
    return Drawing(name, caption, _over_sizes(data, measures.percent("average", "Avg")), data)


def _over_sizes(data: pd.DataFrame, main: Measure) -> style.Figure:
    drawn, axes = style.one_panel((4.6, 3.0), empty=data.empty)
    if data.empty:
        return drawn
    for (label, t), line in data.groupby(["objective", "iteration"]):
        epochs = line["epochs"].iloc[0]
        of_epochs = "" if math.isnan(epochs) else f" ({epochs:.0f} epochs)"
        style.curve(
            axes, line, "size", label=f"{label}, iteration {t}{of_epochs}",
            color=style.colour(label), linestyle="--" if label == "SFT" and t > 0 else "-",
            marker=style.marker(label),
        )  # fmt: skip
    style.logarithmic(axes, data["size"])
    axes.set(xlabel="annotated pairs", ylabel=main.axis)
    style.legend(drawn, columns=1)
    return drawn


def of_grid(run: Run) -> bool:
    return run.loss == "tspin" and run.differs_only_in("coef.alpha", "coef.beta")


def _figure4c(runs: Runs, setting: Setting, name: str, t: int) -> Drawing:
    """The main number of T-SPIN after iteration t, a cell for each alpha and beta."""
    chosen = runs.where(of_grid)
    main = measures.main_of(chosen)
    values = chosen.described(
        measures.values(chosen, [main]).query("iteration == @t"),
        alpha=lambda run: run.coefficient("alpha", t), beta=lambda run: run.coefficient("beta", t),
    )  # fmt: skip
    # beta=0.1 and beta=[0,0.1] are one method; a seed of it counts once
    values = values.drop_duplicates(["alpha", "beta", "seed"])
    data = bands(values, ["alpha", "beta"])
    alphas, betas = (sorted({*GRID, *data[key]}) for key in ("alpha", "beta"))
    table = data.assign(half=data["high"] - data["mean"])
    mean, half = (
        table.pivot(index="alpha", columns="beta", values=key).reindex(alphas, columns=betas)
        for key in ("mean", "half")
    )
    lines = [
        f"alpha={alpha:g}, beta={beta:g}"
        + missing.command(
            "figure4c", runs, setting, f"coef.alpha={alpha:g}", f"coef.beta=[0,{beta:g}]"
        )
        for alpha in alphas
        for beta in betas
        if math.isnan(mean.loc[alpha, beta])
    ]
    if len(lines) == mean.size:
        lines = [f"the whole grid{missing.command('figure4c', runs, setting)}"]
    lines += missing.iterations(chosen, [t])
    caption = (
        f"{main.opening} of T-SPIN after iteration {t} over alpha and beta, "
        f"{setting}. Mean, and half the 95% interval, over seeds; crossed out: no run."
    )
    return Drawing(name, caption, _heat_map(mean, half, main), data, lines)


def _heat_map(mean: pd.DataFrame, half: pd.DataFrame, main: Measure) -> style.Figure:
    """Alpha in rows, beta in columns."""
    square = mean.to_numpy(float)
    empty = bool(np.isnan(square).all())
    drawn, axes = style.one_panel((4.2, 3.4), empty=empty)
    if empty:
        return drawn
    image = axes.imshow(square, cmap=style.MAP, origin="lower", aspect="auto")
    drawn.colorbar(image, ax=axes, label=main.axis)
    middle, digits = (np.nanmin(square) + np.nanmax(square)) / 2, main.digits - 1
    for (i, j), value in np.ndenumerate(square):
        text, color, size = f"{value:.{digits}f}", "white" if value < middle else "black", 8
        if math.isnan(value):
            text, color, size = "x", "#999999", 9
        elif not math.isnan(half.iloc[i, j]):
            text += f"\n$\\pm${half.iloc[i, j]:.{digits}f}"
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=size)
    axes.set_xticks(range(len(mean.columns)), [f"{beta:g}" for beta in mean.columns])
    axes.set_yticks(range(len(mean.index)), [f"{alpha:g}" for alpha in mean.index])
    axes.set(xlabel=r"$\beta$", ylabel=r"$\alpha$")
    axes.grid(visible=False)
    return drawn
