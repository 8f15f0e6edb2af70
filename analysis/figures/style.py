"""One look for every figure: colours, sizes, lines with bands. Nothing here knows what is drawn."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.reading.runs import BASE

# Okabe and Ito's palette, readable by colour-blind eyes; one colour per objective everywhere.
COLOURS = {
    "SFT": "#000000",
    "SPIN": "#D55E00",
    "T-SPIN": "#0072B2",
    "T-SPIN_ref": "#56B4E9",
    "w/o H-A": "#E69F00",
}
SIDES = {"A": "#0072B2", "B": "#D55E00"}  # of a comparison, whatever the objectives
MARKERS = {"SFT": "s", "SPIN": "v", "T-SPIN": "o", "T-SPIN_ref": "D", "w/o H-A": "x"}
# Of other objectives, by a digest of their label; colours of Tol's muted palette.
OTHER_COLOURS = ("#882255", "#117733", "#332288", "#AA4499", "#999933", "#44AA99", "#661100")
ROLES = {"annotated": "#009E73", "synthetic": "#CC79A7", "proto": "#999999"}
STYLES = ("-", "--", ":", "-.")  # an objective, and its variants in the same colour
MAP = "cividis"  # for heat maps: even in grey, the same for all eyes
PANEL = (3.2, 2.6)  # inches
NAMES = {"annotated": "annotated y", "synthetic": "synthetic y'", "proto": "proto-synthetic y0"}

SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 160,
}


def figure(rows: int, columns: int, *, panel: tuple[float, float] = PANEL) -> Figure:
    """A figure of rows x columns panels, with room for a legend; axes by figure.axes."""
    with applied():
        drawn = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
        FigureCanvasAgg(drawn)
        drawn.subplots(rows, columns, squeeze=False)
    return drawn


def objective(label: str) -> str:
    """The objective a label is a variant of: "T-SPIN" of "T-SPIN alpha=0.3"."""
    of_paper = (known for known in COLOURS if label == known or label.startswith(f"{known} "))
    return next(of_paper, re.split(r" \S+=", label, maxsplit=1)[0])


def colour(label: str) -> str:
    known = objective(label)
    usual = COLOURS | SIDES
    return usual.get(known) or OTHER_COLOURS[zlib.crc32(known.encode()) % len(OTHER_COLOURS)]


def marker(label: str) -> str:
    """Tells objectives apart in grey, and where lines lie on each other."""
    return MARKERS.get(objective(label), "^")


def in_order(labels: Iterable[str]) -> list[str]:
    """Objectives in the order of COLOURS, variants behind theirs, others last; each once."""
    order = list(COLOURS)

    def rank(label: str) -> tuple[int, str]:
        known = objective(label)
        return (order.index(known) if known in order else len(order), label)

    return sorted(set(labels), key=rank)


def strokes(labels: Iterable[str]) -> dict[str, str]:
    """A line style for each label: variants of one objective differ by it."""
    groups: dict[str, list[str]] = {}
    for label in in_order(labels):
        groups.setdefault(objective(label), []).append(label)
    numbered = (pair for members in groups.values() for pair in enumerate(members))
    return {label: STYLES[i % len(STYLES)] for i, label in numbered}


def curve(axes: Axes, frame: pd.DataFrame, x: str, *, label: str, color: str, **line: Any) -> None:
    """The mean over seeds as a line and its 95% interval as a band; of one seed the line alone.

    frame  mean, low, high and x, a row per point
    line   of it: linestyle, marker
    """
    frame = frame.sort_values(x).astype({key: float for key in (x, "mean", "low", "high")})
    place, mean, low, high = (frame[key].to_numpy() for key in (x, "mean", "low", "high"))
    axes.plot(place, mean, label=label, color=color, **line)
    axes.fill_between(place, low, high, color=color, alpha=0.15, linewidth=0)


def method(axes: Axes, frame: pd.DataFrame, x: str, label: str, *, linestyle: str = "-") -> None:
    """The `curve` of a method, in its colour and with its markers."""
    curve(axes, frame, x, label=label, color=colour(label), linestyle=linestyle,
          marker=marker(label))  # fmt: skip


def iterations(axes: Axes, places: Iterable[float], most: int = 8) -> None:
    """An x axis of iterations as the console and the folders count them; the initial policy's
    place is named, and at most so many of the others."""
    trained = sorted({int(place) for place in places} - {BASE})
    ticks = [
        *({BASE} & {int(place) for place in places}),
        *trained[:: -(-len(trained) // most) or 1],
    ]
    axes.set_xlabel("iteration")
    axes.set_xticks(ticks, [iteration(place) for place in ticks])


def iteration(t: int) -> str:
    """What the policy after iteration t is called in tables."""
    return "base" if t == BASE else str(t)


def whole_numbers(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def logarithmic(axes: Axes, places: Iterable[float]) -> None:
    """A logarithmic x axis that names the places there are, and no others."""
    ticks = sorted(set(places))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{place:g}" for place in ticks])
    axes.minorticks_off()


def reach(mean: float, low: float, high: float) -> list[list[float]] | None:
    """An interval as errorbar takes it; None where there is none."""
    return None if math.isnan(low + high) else [[mean - low], [high - mean]]


def legend(drawn: Figure, *, columns: int = 5) -> None:
    """One legend below all panels, each label once."""
    entries: dict[Any, Artist] = {}
    for axes in drawn.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        drawn.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=columns,
            frameon=False, fontsize=8,
        )  # fmt: skip


def blank(axes: Axes, text: str) -> None:
    """Says in a panel that there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#666666")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)


def one_panel(panel: tuple[float, float], *, empty: bool) -> tuple[Figure, Axes]:
    """A figure of one panel, which says so where there are no runs to draw."""
    drawn = figure(1, 1, panel=panel)
    (axes,) = drawn.axes
    if empty:
        blank(axes, "no runs")
    return drawn, axes


def applied() -> AbstractContextManager[None]:
    """The settings, for a `with` around drawing and saving."""
    return mpl.rc_context(SETTINGS)
