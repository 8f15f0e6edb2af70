"""The five objectives over iterations, in every regime: what the paper shows in parts (Tables 1
and 2, Figure 4b), together."""

from __future__ import annotations

from analysis.figures import results
from analysis.figures.pieces import Drawing, Piece, Table
from analysis.reading import measures, missing
from analysis.reading.regimes import Regime, regimes
from analysis.reading.runs import Runs

NAMES = ("objectives",)
LOSSES = ("sft", "spin", "tspin", "tspin_ref", "wo_ha")
PANELS = 3


def build(runs: Runs, name: str = "objectives", *, with_paper: bool = False) -> list[Piece]:
    """A figure and a table for every regime. with_paper adds nothing: `table1` and others do."""
    found = [regime for regime in regimes(runs) if len(regime.members)]
    pieces: list[Piece] = []
    for regime in found:
        pieces += _of_regime(regime, name if len(found) == 1 else f"{name}-{regime.slug}")
    return pieces


def _of_regime(regime: Regime, name: str) -> list[Piece]:
    chosen = regime.members
    shown = measures.columns(chosen)
    found = measures.values(chosen, shown)
    lines = missing.objectives(chosen, LOSSES, "seeds", regime.setting, *regime.overrides)
    lines += missing.iterations(chosen)
    lines += missing.seeds(chosen, "seeds", regime.setting, *regime.overrides)
    caption = f"Every objective over iterations, {regime}. Mean and 95% interval over seeds."
    drawn, data = results.panels(found, shown[:PANELS])
    pairs = {run.label: chosen.num_pairs(run) for run in chosen}
    columns = results.columns(shown)
    frame = results.rows(found, shown, pairs)
    return [
        Drawing(name, caption, drawn, data, tuple(lines)),
        Table(f"{name}-table", caption, columns, frame, "label", tuple(lines)),
    ]
