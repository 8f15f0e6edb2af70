"""Small pictures of runs as SVG inside a page, in the page's own colours, light or dark.

matplotlib draws them, as it draws the paper's figures: one library, one look, no script, nothing
to load. Ink is `currentColor`, so that a page in the dark shows it light.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.reading import measures
from analysis.reading.measures import Measure
from analysis.reading.methods import Run
from analysis.reading.rows import Scored
from analysis.reading.runs import BASE, Runs
from analysis.reading.stats import bands, within
from tspin.objectives.contingency import CELLS

INK = "#010203"  # stands for the page's ink
SIZE = (2.4, 1.65)  # inches: small, so that its words are large enough on a phone
# Room for tick labels of seven characters: to measure them takes as long as all else of a picture.
MARGINS = {"left": 0.255, "right": 0.96, "bottom": 0.245, "top": 0.92}
MAX_POINTS = 160  # of a line; more are averaged
WORDS = ("axes.labelsize", "xtick.labelsize", "ytick.labelsize")
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
LOOK: dict[Any, Any] = {
    **style.SETTINGS,
    **dict.fromkeys(WORDS, 7),
    **dict.fromkeys(INKED, INK),
    "axes.formatter.limits": (-3, 4),  # beyond, a power of ten is above the axis
    "font.size": 7.5,
    "font.family": "sans-serif",
    "grid.color": "#888888",
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
}
STAGES = ("generate", "train", "score", "evaluate", "benchmarks")
STAGE_COLOURS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#CC79A7")
REWARD, LOGP = "rewards", "logps"


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows in words, and the names of its colours."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = ()  # name, colour


def measure(values: pd.DataFrame, shown: Measure, name: str) -> Picture | None:
    """A line for each label over iterations, the initial policy first; None without a number.

    values  as measures.values gives them; with one seed the band is the 95% interval over prompts
    """
    own = values[values["key"] == shown.key]
    if own.empty or (own["iteration"] == BASE).all():
        return None
    labels = style.in_order(own["label"])
    data = bands(own, ["label", "iteration"])
    if "stderr" in own:  # of a single run
        ends = [measures.over_prompts(shown, row) for _, row in own.iterrows()]
        own = own.assign(**dict(zip(("own_low", "own_high"), zip(*ends, strict=True), strict=True)))
        alone = own.drop_duplicates(["label", "iteration"])
        data = data.merge(alone[["label", "iteration", "own_low", "own_high"]])
        data["low"] = data["low"].fillna(data["own_low"])
        data["high"] = data["high"].fillna(data["own_high"])
    if shown.unit == "%":
        data = within(data, 0.0, 100.0)
    strokes = style.strokes(labels)

    def draw(axes: Axes) -> None:
        for label in labels:
            style.method(axes, data[data["label"] == label], "iteration", label,
                         linestyle=strokes[label])  # fmt: skip
        axes.set_ylabel(shown.axis)
        style.iterations(axes, data["iteration"])

    legend = [(label, style.colour(label)) for label in labels] if len(labels) > 1 else []
    return Picture(shown.opening, svg(draw, name), legend)


def of_steps(runs: Runs, run: Run, name: str) -> list[Picture]:
    """Over the steps of all iterations, those that go on included: log-likelihoods, rewards and
    margins, misaligned share, the gradient that is left."""
    begun = sorted({*run.folder.iterations(), *run.folder.begun()})
    parts = {t: steps for t in begun if not (steps := runs.steps(run, t)).empty}
    if not parts:
        return []
    every = pd.concat([steps.assign(x=t + steps["progress"], t=t) for t, steps in parts.items()])
    if {"rewards/annotated", "rewards/synthetic"} <= {*every}:
        every["margin"] = every["rewards/annotated"] - every["rewards/synthetic"]
    if {"contingency/reward_only", "contingency/logp_only"} <= {*every}:
        both = every["contingency/reward_only"] + every["contingency/logp_only"]
        every["misaligned"] = 100 * both
    roles = {role: colour for role, colour in style.ROLES.items()}

    def of_roles(kind: str) -> dict[str, tuple[str, str]]:
        return {f"{kind}/{role}": (style.NAMES[role], colour) for role, colour in roles.items()}

    wanted: list[tuple[str, str, Mapping[str, tuple[str, str]]]] = [
        ("Log-likelihoods of y, y' and y0", "nats", of_roles(LOGP)),
        ("Rewards", "nats", of_roles(REWARD)),
        ("Reward margin r(y) - r(y')", "nats", {"margin": ("margin", style.colour(run.label))}),
        ("Misaligned pairs", "%", {"misaligned": ("misaligned", "#D55E00")}),
        ("Gradient left", "weight of a pair", {
            "weights/current": ("current", "#0072B2"),
            "weights/historical": ("historical", "#E69F00"),
        }),
        ("Norm of the gradient", "", {"grad_norm": ("norm", style.colour(run.label))}),
    ]  # fmt: skip
    pictures = []
    for i, (title, unit, lines) in enumerate(wanted):
        present = {key: look for key, look in lines.items() if key in every}
        rewards = [every[key].equals(every[key.replace(REWARD, LOGP)]) for key in present
                   if key.startswith(REWARD)]  # fmt: skip
        if not present or (rewards and all(rewards)):  # a reference-free reward is the likelihood
            continue

        def draw(axes: Axes, present: Mapping[str, Any] = present, unit: str = unit) -> None:
            for _, part in every.groupby("t"):
                thin = _thinned(part)
                for key, (_, colour) in present.items():
                    axes.plot(thin["x"], thin[key], color=colour)
            for t in begun[1:]:
                axes.axvline(t, color="#888888", linewidth=0.5)
            if unit == "%":
                axes.set_ylim(-2, 102)
            axes.set(xlabel="iteration, from its start", ylabel=unit)
            style.whole_numbers(axes)

        legend = [*present.values()] if len(present) > 1 else []
        pictures.append(Picture(title, svg(draw, f"{name}-s{i}"), legend))
    return pictures


def distributions(scored: Scored, name: str) -> list[Picture]:
    """Of one iteration: log-likelihoods by role, and reward margins."""
    pictures = []
    logps = {role: scored["logp", role] for role in style.ROLES if ("logp", role) in scored}
    logps = {role: values[~np.isnan(values)] for role, values in logps.items()}
    if logps:
        low, high = np.percentile(np.concatenate([*logps.values()]), [1, 99])
        edges = np.linspace(low, high if high > low else low + 1, 25)

        def draw(axes: Axes) -> None:
            for role, values in logps.items():
                axes.hist(values.clip(low, high), edges.tolist(), histtype="step",
                          color=style.ROLES[role])  # fmt: skip
            axes.set(xlabel="log-likelihood (nats)", ylabel="prompts")

        legend = [(style.NAMES[role], style.ROLES[role]) for role in logps]
        pictures.append(Picture("Log-likelihoods at the end", svg(draw, f"{name}-d0"), legend))
    rewards = [scored.get(("reward", role)) for role in ("annotated", "synthetic")]
    if rewards[0] is not None and rewards[1] is not None:
        margins = rewards[0] - rewards[1]
        margins = margins[~np.isnan(margins)]

        def draw_margins(axes: Axes) -> None:
            axes.hist(margins, 25, color="#0072B2", alpha=0.7)
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set(xlabel="r(y) - r(y') (nats)", ylabel="prompts")

        if len(margins):
            pictures.append(Picture("Reward margins at the end", svg(draw_margins, f"{name}-d1")))
    return pictures


def seconds(by_iteration: Mapping[int, Mapping[str, float]], name: str) -> Picture | None:
    """Where the time went: stacked minutes of the stages of every iteration."""
    stages = [s for s in STAGES if any(s in spent for spent in by_iteration.values())]
    if not stages:
        return None

    def draw(axes: Axes) -> None:
        left = np.zeros(len(by_iteration))
        for stage in stages:
            spent = np.array([of.get(stage, 0.0) / 60 for of in by_iteration.values()])
            colour = STAGE_COLOURS[STAGES.index(stage)]
            axes.barh([str(t) for t in by_iteration], spent, left=left, color=colour)
            left += spent
        axes.invert_yaxis()
        axes.set(xlabel="minutes", ylabel="iteration")
        axes.grid(axis="y", visible=False)

    legend = [(stage, STAGE_COLOURS[STAGES.index(stage)]) for stage in stages]
    return Picture("Where the time went", svg(draw, name), legend)


def lengths(tokens: Mapping[int, float], name: str) -> Picture | None:
    """Mean tokens of y' over iterations."""
    if not tokens:
        return None

    def draw(axes: Axes) -> None:
        axes.plot([*tokens], [*tokens.values()], color=style.ROLES["synthetic"], marker="o")
        axes.set(xlabel="iteration", ylabel="mean tokens of y'")
        axes.set_ylim(0, 1.15 * max(tokens.values()) or 1)
        style.whole_numbers(axes)

    return Picture("Lengths of y'", svg(draw, name))


def contingency(cells: pd.DataFrame, name: str) -> Picture | None:
    """Shares of training prompts over iterations. cells: iteration and CELLS, as shares"""
    if cells.empty or cells[list(CELLS)].isna().all(axis=None):
        return None
    colours = dict(zip(CELLS, ("#009E73", "#D55E00", "#E69F00", "#999999"), strict=True))

    def draw(axes: Axes) -> None:
        for cell, colour in colours.items():
            axes.plot(cells["iteration"], 100 * cells[cell].astype(float), color=colour, marker="o")
        axes.set(xlabel="iteration", ylabel="% of training prompts", ylim=(-2, 102))
        style.whole_numbers(axes)

    legend = [(cell.replace("_", " "), colour) for cell, colour in colours.items()]
    return Picture("What ranks y above y'", svg(draw, name), legend)


def svg(draw: Any, name: str) -> Markup:
    """What `draw(axes)` draws, for a page: ids begin with `name`, so that it may hold many."""
    with mpl.rc_context(LOOK | {"svg.hashsalt": name}):
        figure = Figure(figsize=SIZE)
        figure.subplots_adjust(**MARGINS)
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = file.getvalue()
    text = (
        text[text.index("<svg") :].replace(INK, "currentColor").replace("#000000", "currentColor")
    )
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # a style inside would be of the whole page
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{name}-", text)
    return Markup(text.replace("<svg ", '<svg aria-hidden="true" ', 1))


def _thinned(steps: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_POINTS rows, means of neighbours."""
    if len(steps) <= MAX_POINTS:
        return steps
    groups = np.arange(len(steps)) * MAX_POINTS // len(steps)
    return steps.groupby(groups).mean(numeric_only=True)
