"""How long answers to held-out prompts are, and how many end by themselves. One that is cut counts
as wrong where a program checks, whatever it begins with."""

from __future__ import annotations

from analysis.figures import results
from analysis.figures.pieces import Piece, Table, of_settings
from analysis.reading import measures, missing
from analysis.reading.measures import Measure, percent
from analysis.reading.methods import Setting
from analysis.reading.runs import Runs

NAMES = ("answers",)
SHOWN = (
    Measure("num_tokens,sampled", "length of a sample", "tokens", digits=1),
    percent("finished,sampled", "samples that end", better=0),
    Measure("num_tokens,greedy", "length of a greedy answer", "tokens", digits=1),
    percent("finished,greedy", "greedy answers that end", better=0),
)


def build(runs: Runs, name: str = "answers") -> list[Piece]:
    """A table for every setting whose held-out prompts were answered."""
    answered = {*runs.evaluation.loc[runs.evaluation["key"].isin(m.key for m in SHOWN), "run"]}
    chosen = runs.where(lambda run: run.name in answered and (run.is_main or run.is_anchored))
    if not len(chosen):
        lines = [f"no run answered held-out prompts{missing.command('seeds', runs, None)}"]
        columns, frame = results.columns([]), results.rows(measures.values(runs, []), [], {})
        return [Table(name, "Answers to held-out prompts.", columns, frame, missing=lines)]
    return of_settings(chosen, name, lambda part, at, named: [_of_setting(part, at, named)])


def _of_setting(runs: Runs, setting: Setting, name: str) -> Table:
    present = {*runs.evaluation["key"]}
    shown = [measure for measure in SHOWN if measure.key in present]
    values = measures.values(runs, shown)
    caption = (
        f"Answers to held-out prompts, EOS included, over iterations, {setting}. "
        "Mean and 95% interval over seeds."
    )
    columns, frame = results.columns(shown), results.rows(values, shown, runs.pairs())
    return Table(name, caption, columns, frame, "label", missing.iterations(runs))
