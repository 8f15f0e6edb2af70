"""What one or two settings do: Figure 4a (number of annotated pairs) and 4c (alpha and beta)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import Drawing, Piece
from analysis.reading import measures, missing, paper
from analysis.reading.measures import Measure
from analysis.reading.runs import Run, Runs, Setting
from analysis.reading.stats import bands

NAMES = ("figure4a", "figure4c")
LOSSES = ("sft", "tspin")
GRID = (0.1, 0.3, 0.5, 1.0)  # of alpha and of beta, Figure 4c
PAPER_SIZES = (14_000, 26_000, 50_000, 100_000, 200_000)


def build(runs: Runs, name: str, *, with_paper: bool = False, iteration: int = 1) -> list[Piece]:
    """iteration: after which one methods are compared; the paper's is 1."""
    make = _figure4a if name == "figure4a" else _figure4c
    settings = runs.settings()
    pieces: list[Piece] = []
    for setting in settings:
        part = runs.of(setting)
        named = name if len(settings) == 1 else f"{name}-{setting.slug}"
        pieces.append(make(part, setting, named, iteration))
    if with_paper and name == "figure4a":
        pieces.append(_paper(f"{name}-paper"))
    return pieces


def _figure4a(runs: Runs, setting: Setting, name: str, t: int) -> Drawing:
    """T-SPIN after iteration t; SFT after its first iteration, and after as many steps."""
    chosen = runs.where(lambda run: run.loss in LOSSES and run.differs_only_in("data.size"))
    shown = measures.columns(chosen)
    main = measures.main_number(shown)
    found = measures.values(chosen, [main] if main else [])
    by_run = {run.name: run for run in chosen}
    found = found[found["run"].isin(by_run)]
    found["size"] = [chosen.num_pairs(by_run[name]) for name in found["run"]]
    found["objective"] = [_objective(by_run[name]) for name in found["run"]]
    found["loss"] = [by_run[name].loss for name in found["run"]]
    wanted = (found["iteration"] == t) | ((found["loss"] == "sft") & (found["iteration"] == 0))
    data = bands(found[wanted], ["objective", "loss", "iteration", "size"])
    data["epochs"] = _epochs(chosen) * (data["iteration"] + 1)
    lines = missing.objectives(chosen, LOSSES, "figure4a", setting)
    if data["size"].nunique() < 2:
        lines.append(f"one number of pairs only: {missing.command('figure4a', setting)}")
    lines += missing.iterations(chosen.where(lambda run: run.loss == "sft"), [0])
    lines += missing.iterations(chosen.where(lambda run: run.loss != "sft"), [t])
    lines += missing.seeds(chosen, "figure4a", setting)
    drawn = _over_sizes(data, main)
    caption = (
        f"{measures.opening(main)} against the number of annotated pairs, {setting}: "
        f"T-SPIN after iteration {t}, SFT after its first iteration and after as many steps. Mean "
        "and 95% interval over seeds."
    )
    return Drawing(name, caption, drawn, data, tuple(lines))


def _paper(name: str) -> Drawing:
    printed = paper.table("figure4a")
    data = printed.rename(columns={"avg": "mean", "method": "objective"})
    data = data.assign(low=math.nan, high=math.nan, n=1, loss=data["objective"].str.lower())
    data["iteration"] = np.where(data["objective"] == "SFT", 0, 1)
    caption = f"The points of Figure 4a that the paper gives as numbers ({paper.SOURCE})."
    return Drawing(name, caption, _over_sizes(data, measures.percent("average", "Avg")), data)


def _over_sizes(data: pd.DataFrame, main: Measure | None) -> style.Figure:
    drawn = style.figure(1, 1, panel=(4.6, 3.0))
    (axes,) = drawn.axes
    if data.empty or main is None:
        style.blank(axes, "no runs")
        return drawn
    for (label, t), line in data.groupby(["objective", "iteration"]):
        epochs = line["epochs"].iloc[0]
        said = f"{label}, iteration {t}" + ("" if math.isnan(epochs) else f" ({epochs:.0f} epochs)")
        dashed = label == "SFT" and t > 0
        style.curve(
            axes, line, "size", label=said, color=style.colour(label),
            linestyle="--" if dashed else "-", marker=style.marker(label),
        )  # fmt: skip
    style.logarithmic(axes, data["size"])
    axes.set_xlabel("annotated pairs")
    axes.set_ylabel(main.axis)
    style.legend(drawn, columns=1)
    return drawn


def _figure4c(runs: Runs, setting: Setting, name: str, t: int) -> Drawing:
    """The main number of T-SPIN after iteration t, a cell for each alpha and beta."""
    chosen = runs.where(
        lambda run: run.loss == "tspin" and run.differs_only_in("coef.alpha", "coef.beta")
    )
    main = measures.main_number(measures.columns(chosen))
    found = measures.values(chosen, [main] if main else [])
    found = found[found["iteration"] == t]
    by_run = {run.name: run for run in chosen}
    for key in ("alpha", "beta"):
        found[key] = [by_run[name].coefficient(key, t) for name in found["run"]]
    # beta=0.1 and beta=[0,0.1] are one method; a seed of it counts once
    found = found.drop_duplicates(["alpha", "beta", "seed"])
    data = bands(found, ["alpha", "beta"])
    alphas = sorted({*GRID, *data["alpha"]})
    betas = sorted({*GRID, *data["beta"]})
    square = data.pivot(index="alpha", columns="beta", values="mean")
    square = square.reindex(index=alphas, columns=betas)
    half = data.assign(half=data["high"] - data["mean"])
    half = half.pivot(index="alpha", columns="beta", values="half")
    half = half.reindex(index=alphas, columns=betas)
    lines = [
        f"alpha={alpha:g}, beta={beta:g}: "
        + missing.command("figure4c", setting, f"coef.alpha={alpha:g}", f"coef.beta=[0,{beta:g}]")
        for alpha in alphas
        for beta in betas
        if math.isnan(square.loc[alpha, beta])
    ]
    if len(lines) == len(alphas) * len(betas):
        lines = [f"the whole grid: {missing.command('figure4c', setting)}"]
    lines += missing.iterations(chosen, [t])
    drawn = style.figure(1, 1, panel=(4.2, 3.4))
    _heat_map(drawn, square.to_numpy(float), half.to_numpy(float), alphas, betas, main)
    caption = (
        f"{measures.opening(main)} of T-SPIN after iteration {t} over alpha and beta, "
        f"{setting}. Mean, and half the 95% interval, over seeds; crossed out: no run."
    )
    return Drawing(name, caption, drawn, data, tuple(lines))


def _heat_map(
    drawn: style.Figure,
    square: np.ndarray,
    half: np.ndarray,
    alphas: list[float],
    betas: list[float],
    main: Measure | None,
) -> None:
    (axes,) = drawn.axes
    if main is None or np.isnan(square).all():
        style.blank(axes, "no runs")
        return
    image = axes.imshow(square, cmap=style.MAP, origin="lower", aspect="auto")
    drawn.colorbar(image, ax=axes, label=main.axis)
    middle = (np.nanmin(square) + np.nanmax(square)) / 2
    for i, j in np.ndindex(*square.shape):
        if math.isnan(square[i, j]):
            axes.text(j, i, "x", ha="center", va="center", color="#999999")
            continue
        text = f"{square[i, j]:.{main.digits - 1}f}"
        if not math.isnan(half[i, j]):
            text += f"\n$\\pm${half[i, j]:.{main.digits - 1}f}"
        color = "white" if square[i, j] < middle else "black"
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_xlabel(r"$\beta$")
    axes.set_ylabel(r"$\alpha$")
    axes.grid(visible=False)


def _objective(run: Run) -> str:
    return str(run.values["loss.label"])


def _epochs(runs: Runs) -> float:
    epochs = {float(run.values.get("optim.epochs", math.nan)) for run in runs}
    return epochs.pop() if len(epochs) == 1 else math.nan
