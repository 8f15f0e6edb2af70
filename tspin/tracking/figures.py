"""What trackers show of a run as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tspin.objectives.contingency import CELLS, TIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def contingency_pixels(counts: Mapping[str, int], title: str) -> np.ndarray:
    """`contingency_figure`, drawn. -> (height, width, 4) uint8"""
    figure = contingency_figure(counts, title)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]  # Agg has it


def contingency_figure(counts: Mapping[str, int], title: str) -> Figure:
    """Heat map of CELLS: reward in rows, log-likelihood in columns, count and share in each cell.

    Built without pyplot: no global state, nothing to close, no display needed.
    """
    # Imported here: runs without a tracker should not pay for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sides = ("higher", "not higher")
    cell_at = {sides_of: cell for cell, sides_of in CELLS.items()}
    grid = [[counts[cell_at[reward, logp]] for logp in sides] for reward in sides]
    total = sum(map(sum, grid))

    figure = Figure(figsize=(4.8, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=max(total, 1))
    for row, line in enumerate(grid):
        for column, count in enumerate(line):
            share = count / total if total else 0.0
            colour = "white" if share > 0.5 else "black"  # readable on dark blue and on white
            text = f"{count}\n{share:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    axes.set_xticks([0, 1], sides)
    axes.set_yticks([0, 1], sides, rotation=90, va="center")
    axes.set_xlabel("log-likelihood of annotated, against synthetic")
    axes.set_ylabel("reward of annotated, against synthetic")
    ties = ", ".join(f"{key.removeprefix('tied_')} {counts[key]}" for key in TIES if key in counts)
    axes.set_title(f"{title}\n{total} rows" + (f"; equal: {ties}" if ties else ""), fontsize=11)
    return figure
