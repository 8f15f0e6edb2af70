"""What the paper does not show: what is left of each pair's gradient and how much of it the
historical term has, alignment of reward and likelihood over iterations, and whether the reward
margin follows quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.figures import dynamics, style
from analysis.figures.pieces import HIGH, LOW, Column, Drawing, Piece, Table
from analysis.reading import measures, missing
from analysis.reading.runs import BASE, CELLS, Runs, Setting
from analysis.reading.stats import bands, correlation, mean_interval

NAMES = ("weights", "contingency", "correlation")
PAIRS = ("spin", "tspin", "tspin_ref", "wo_ha")  # objectives that compare responses
SHARE = "share"
MARGINS = ("logp_margin", "margin")


def build(runs: Runs, name: str, *, with_paper: bool = False) -> list[Piece]:
    """with_paper adds nothing: the paper has none of it."""
    make = {"weights": _weights, "contingency": _contingency, "correlation": _correlation}[name]
    settings = runs.settings()
    pieces: list[Piece] = []
    for setting in settings:
        chosen = runs.of(setting).where(lambda run: run.is_main and run.loss in PAIRS)
        pieces += make(chosen, setting, name if len(settings) == 1 else f"{name}-{setting.slug}")
    return pieces


def _weights(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    """sigma(-scale u) of both terms, and beta w_h / (w_c + beta w_h)."""
    iterations = sorted({t for run in runs for t in run.folder.iterations()})
    keys = ["weights/current", "weights/historical"]
    found = dynamics.curves(runs, iterations, keys)
    betas = {(run.label, run.seed, t): run.beta(t) for run in runs for t in iterations}
    index = ["label", "seed", "iteration", "progress"]
    wide = found.pivot(index=index, columns="key", values="value").reindex(columns=keys)
    wide = wide.reset_index()
    beta = np.array([betas[key] for key in zip(*(wide[k] for k in index[:3]), strict=True)])
    historical = beta * wide[keys[1]].to_numpy(float)
    wide[SHARE] = np.where(
        beta > 0, historical / (historical + wide[keys[0]].to_numpy(float)), np.nan
    )
    long = wide.melt(index, [*keys, SHARE], "key").dropna(subset=["value"])
    data = bands(long, ["label", "iteration", "progress", "key"])
    titles = {
        keys[0]: "current pair's weight",
        keys[1]: "historical pair's weight",
        SHARE: "historical share",
    }
    drawn = style.figure(1, 3)
    for axes, (key, title) in zip(drawn.axes, titles.items(), strict=True):
        for label in style.in_order(runs.labels()):
            line = data[(data["key"] == key) & (data["label"] == label)]
            for _, part in line.groupby("iteration"):
                style.curve(axes, part, "progress", label=label, color=style.colour(label))
        axes.set_xlabel("iterations of training")
        axes.set_ylabel(title)
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
    return [Drawing(name, caption, drawn, data, tuple(lines))]


def _contingency(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    """Figure 3's table over iterations."""
    table = runs.contingency.copy()
    table["misaligned"] = table["reward_only"] + table["logp_only"]
    long = table.melt(
        ["label", "seed", "iteration", "split"], [*CELLS, "misaligned"], "key"
    ).dropna(subset=["value"])
    data = bands(long.assign(value=100 * long["value"].astype(float)),
                 ["split", "label", "iteration", "key"])  # fmt: skip
    panels = [
        (split, key, title)
        for split, of in (("train", "training"), ("heldout", "held-out"))
        for key, title in (
            ("misaligned", f"{of} prompts, misaligned (%)"),
            ("both", f"{of} prompts, both (%)"),
        )
    ]
    drawn = style.figure(2, 2)
    for axes, (split, key, title) in zip(drawn.axes, panels, strict=True):
        for label in style.in_order(runs.labels()):
            line = data[(data["split"] == split) & (data["key"] == key) & (data["label"] == label)]
            style.curve(
                axes, line, "iteration", label=label, color=style.colour(label),
                marker=style.marker(label),
            )  # fmt: skip
        axes.set_xlabel("iteration")
        axes.set_ylabel(title)
        style.whole_numbers(axes)
    style.legend(drawn)
    caption = (
        "On how many prompts both reward and log-likelihood rank the annotated response above the "
        "synthetic one, and on how many only one of them does (misaligned), after each "
        f"iteration, {setting}; ties count as not above. Mean and "
        "95% interval over seeds."
    )
    lines = missing.objectives(runs, PAIRS, "table2", setting) + missing.iterations(runs)
    return [Drawing(name, caption, drawn, data, tuple(lines))]


def _correlation(runs: Runs, setting: Setting, name: str) -> list[Piece]:
    """Margins against the main number: a point per run and iteration, r within each run."""
    shown = measures.columns(runs)
    main = measures.main_number(shown)
    wanted = [measures.HELDOUT[key] for key in MARGINS]
    found = measures.values(runs, [*wanted, main] if main else wanted)
    found = found[found["iteration"] != BASE]
    wide = found.pivot_table(index=["label", "seed", "run", "iteration"], columns="key",
                             values="value")  # fmt: skip
    keys = [*MARGINS, *([main.key] if main else [])]
    data = wide.reindex(columns=keys).reset_index()
    drawn = style.figure(1, len(MARGINS))
    for axes, measure in zip(drawn.axes, wanted, strict=True):
        if main is None or data[measure.key].isna().all():
            style.blank(axes, f"no {measure.title}")
            continue
        for label in style.in_order(runs.labels()):
            of = data[data["label"] == label]
            axes.scatter(
                of[measure.key], of[main.key], s=14, label=label, color=style.colour(label),
                marker=style.marker(label),
            )  # fmt: skip
        axes.set_xlabel(f"held-out {measure.axis}")
        axes.set_ylabel(main.axis)
    style.legend(drawn)
    title = main.title if main else "quality"
    caption = (
        f"Held-out margins of annotated over synthetic against {title}, {setting}: a point per "
        "run and iteration. Rewards of different objectives have different scales."
    )
    lines = tuple(missing.iterations(runs))
    if data.empty:
        lines += (f"no evaluated run: {missing.command('table1', setting)}",)
    table = Table(
        f"{name}-table",
        f"Pearson's r of margin and {title} over the iterations of a run, {setting}: mean and 95% "
        "interval over seeds. Iterations follow one another: it describes, and proves no cause.",
        (Column("label", "method"), Column("seeds", "seeds"),
         *(Column(measure.key, f"r with {measure.title}", 2, signed=True) for measure in wanted)),
        _by_run(data, wanted, main.key if main else None),
        missing=lines,
    )  # fmt: skip
    return [Drawing(name, caption, drawn, data, lines), table]


def _by_run(
    data: pd.DataFrame, margins: Sequence[measures.Measure], quality: str | None
) -> pd.DataFrame:
    rows = []
    for label in style.in_order(data["label"]):
        of = data[data["label"] == label]
        row: dict[str, object] = {"label": label, "seeds": of["seed"].nunique()}
        for measure in margins:
            found = [
                correlation(run[measure.key].tolist(), run[quality].tolist())
                for _, run in of.groupby("run")
                if quality
            ]
            over = mean_interval(found)
            row |= {measure.key: over.mean, measure.key + LOW: over.low,
                    measure.key + HIGH: over.high}  # fmt: skip
        rows.append(row)
    keys = [key for m in margins for key in (m.key, m.key + LOW, m.key + HIGH)]
    return pd.DataFrame(rows, columns=["label", "seeds", *keys])
