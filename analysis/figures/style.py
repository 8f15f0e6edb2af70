"""One look for every figure: colours, sizes, lines with bands. Nothing here knows what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, readable by colour-blind eyes; one colour per objective everywhere.
COLOURS = {
    "SFT": "#000000",
    "SPIN": "#D55E00",
    "T-SPIN": "#0072B2",
    "T-SPIN_ref": "#56B4E9",
    "w/o H-A": "#E69F00",
}
ROLES = {"annotated": "#009E73", "synthetic": "#CC79A7", "proto": "#999999"}
OTHERS = "#999999"
MARKERS = {"SFT": "s", "SPIN": "v", "T-SPIN": "o", "T-SPIN_ref": "D", "w/o H-A": "x"}
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
    """The objective a label is a variant of: "T-SPIN" of "T-SPIN alpha=0.3"; else the label."""
    return next((known for known in COLOURS if label == known or label.startswith(f"{known} ")),
                label)  # fmt: skip


def colour(label: str) -> str:
    return COLOURS.get(objective(label), OTHERS)


def marker(label: str) -> str:
    """Tells objectives apart in grey, and where lines lie on each other."""
    return MARKERS.get(objective(label), ".")


def in_order(labels: Sequence[str]) -> list[str]:
    """Objectives in the order of COLOURS, variants behind theirs, the unknown last."""
    order = list(COLOURS)

    def rank(label: str) -> tuple[int, str]:
        known = objective(label)
        return (order.index(known) if known in order else len(order), label)

    return sorted(dict.fromkeys(labels), key=rank)


def strokes(labels: Sequence[str]) -> dict[str, str]:
    """A line style for each label: variants of one objective differ by it."""
    seen: dict[str, int] = {}
    found = {}
    for label in in_order(labels):
        known = objective(label)
        found[label] = STYLES[seen.get(known, 0) % len(STYLES)]
        seen[known] = seen.get(known, 0) + 1
    return found


def curve(
    axes: Axes,
    frame: pd.DataFrame,
    x: str,
    *,
    label: str,
    color: str,
    linestyle: str = "-",
    marker: str | None = None,
) -> None:
    """The mean over seeds as a line and its 95% interval as a band; of one seed the line alone.

    frame  mean, low, high and x, a row per point
    """
    frame = frame.sort_values(x)
    place, mean = frame[x].to_numpy(float), frame["mean"].to_numpy(float)
    axes.plot(place, mean, label=label, color=color, linestyle=linestyle, marker=marker)
    low, high = frame["low"].to_numpy(float), frame["high"].to_numpy(float)
    axes.fill_between(place, low, high, color=color, alpha=0.15, linewidth=0)


def whole_numbers(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def logarithmic(axes: Axes, places: Sequence[float]) -> None:
    """A logarithmic x axis that names the places there are, and no others."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(places)), [f"{place:g}" for place in sorted(set(places))])
    axes.minorticks_off()


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


def applied() -> AbstractContextManager[None]:
    """The settings, for a `with` around drawing and saving."""
    return mpl.rc_context(SETTINGS)


def settle(drawn: Figure) -> None:
    """Lays a figure out once, rather than at every save."""
    engine = drawn.get_layout_engine()
    if engine is not None:
        engine.execute(drawn)
        drawn.set_layout_engine("none")
