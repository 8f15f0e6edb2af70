"""All objectives over iterations, in every regime: what the paper shows in parts (Tables 1 and 2,
Figure 4b), together."""

from __future__ import annotations

from analysis.figures import results
from analysis.figures.pieces import Drawing, Piece, Table, of_each
from analysis.reading import measures, missing, paper
from analysis.reading.regimes import Regime, regimes
from analysis.reading.runs import Runs

NAMES = ("objectives",)
PANELS = 3


def build(runs: Runs, name: str = "objectives") -> list[Piece]:
    """A figure and a table for every regime."""
    return of_each(regimes(runs), name, _of_regime)


def _of_regime(regime: Regime, name: str) -> list[Piece]:
    chosen = regime.members
    shown = measures.columns(chosen)
    values = measures.values(chosen, shown)
    lines = missing.objectives(chosen, paper.LOSSES, "seeds", regime.setting, *regime.overrides)
    lines += missing.iterations(chosen)
    lines += missing.seeds(chosen, "seeds", regime.setting, *regime.overrides)
    caption = f"Every objective over iterations, {regime}. Mean and 95% interval over seeds."
    drawn, data = results.panels(values, shown[:PANELS])
    columns, frame = results.columns(shown), results.rows(values, shown, chosen.pairs())
    return [
        Drawing(name, caption, drawn, data, lines),
        Table(f"{name}-table", caption, columns, frame, "label", lines),
    ]
