"""What the paper does not show: what is left of each pair's gradient and how much of it the
historical term has, and alignment of reward and likelihood over iterations."""

from __future__ import annotations

import numpy as np

from analysis.figures import dynamics, style
from analysis.figures.pieces import Drawing, Piece, of_each
from analysis.reading import missing
from analysis.reading.methods import Setting
from analysis.reading.runs import Runs
from analysis.reading.stats import bands
from tspin.objectives.contingency import CELLS

NAMES = ("weights", "contingency")
PAIRS = ("spin", "tspin", "tspin_ref", "wo_ha")  # the paper's objectives that compare responses
WEIGHTS = ["weights/current", "weights/historical"]
SHARE = "share"


def build(runs: Runs, name: str) -> list[Piece]:
    make = {"weights": _weights, "contingency": _contingency}[name]
    compared = runs.where(lambda run: run.is_main and run.loss != "sft")  # which has no pair
    return of_each(runs.settings(), name, lambda at, named: [make(compared.of(at), at, named)])


def _weights(runs: Runs, setting: Setting, name: str) -> Drawing:
    """sigma(-scale u) of both terms, and beta w_h / (w_c + beta w_h)."""
    iterations = sorted({t for run in runs for t in run.folder.iterations()})
    index = ["label", "seed", "iteration", "progress"]
    wide = dynamics.curves(runs, iterations, WEIGHTS)
    wide = wide.pivot(index=index, columns="key", values="value").reindex(columns=WEIGHTS)
    wide = wide.reset_index()
    betas = {(run.label, run.seed, t): run.beta(t) for run in runs for t in iterations}
    beta = np.array([betas[key] for key in wide[index[:3]].itertuples(index=False, name=None)])
    current, historical = wide[WEIGHTS].to_numpy(float).T
    share = beta * historical / (beta * historical + current)
    wide[SHARE] = np.where(beta > 0, share, np.nan)
    long = wide.melt(index, [*WEIGHTS, SHARE], "key").dropna(subset=["value"])
    data = bands(long, ["label", "iteration", "progress", "key"])
    titles = ("current pair's weight", "historical pair's weight", "historical share")
    drawn = style.figure(1, 3)
    for axes, key, title in zip(drawn.axes, (*WEIGHTS, SHARE), titles, strict=True):
        for label in style.in_order(runs.labels()):
            line = data[(data["key"] == key) & (data["label"] == label)]
            dynamics.broken_line(axes, line, label=label, color=style.colour(label))
        axes.set(xlabel="iterations of training", ylabel=title)
        axes.set_ylim(bottom=0)
        style.whole_numbers(axes)
    style.legend(drawn)
    caption = (
        "What is left of a pair's gradient under the logistic link, sigma(-alpha u), of "
        f"annotated against synthetic and of synthetic against proto-synthetic, {setting}; and "
        "the historical term's share of the two weights, beta w_h / (w_c + beta w_h): the share "
        "of coefficients, not of norms. Mean and 95% interval over seeds."
    )
    lines = missing.objectives(runs, PAIRS, "table2", setting)
    return Drawing(name, caption, drawn, data, lines)


def _contingency(runs: Runs, setting: Setting, name: str) -> Drawing:
    """Figure 3's table over iterations."""
    table = runs.contingency
    table = table.assign(misaligned=table["reward_only"] + table["logp_only"])
    index = ["split", "label", "iteration", "key"]
    long = table.melt([*index[:3], "seed"], [*CELLS, "misaligned"], "key").dropna(subset=["value"])
    data = bands(long.assign(value=100 * long["value"].astype(float)), index)
    drawn = style.figure(2, 2)
    panels = [
        (split, key, f"{of} prompts, {key} (%)")
        for split, of in (("train", "training"), ("heldout", "held-out"))
        for key in ("misaligned", "both")
    ]
    for axes, (split, key, title) in zip(drawn.axes, panels, strict=True):
        for label in style.in_order(runs.labels()):
            line = data[(data["split"] == split) & (data["key"] == key) & (data["label"] == label)]
            style.method(axes, line, "iteration", label)
        axes.set(xlabel="iteration", ylabel=title)
        style.whole_numbers(axes)
    style.legend(drawn)
    caption = (
        "On how many prompts both reward and log-likelihood rank the annotated response above the "
        "synthetic one, and on how many only one of them does (misaligned), after each "
        f"iteration, {setting}; ties count as not above. Mean and "
        "95% interval over seeds."
    )
    lines = missing.objectives(runs, PAIRS, "table2", setting) + missing.iterations(runs)
    return Drawing(name, caption, drawn, data, lines)
