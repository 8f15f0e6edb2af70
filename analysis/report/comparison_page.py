"""Two runs, or two iterations of one, side by side: what differs in their configuration, curves on
one axis, paired differences with intervals, samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures import comparison, style
from analysis.reading import measures, stats
from analysis.reading.measures import Measure
from analysis.reading.methods import Run
from analysis.reading.runs import BASE, Runs
from analysis.reading.triplets import Triplets
from analysis.report import curves
from analysis.report.environment import render
from tspin.config.identity import IDENTITY_FREE
from tspin.config.objective import TARGET
from tspin.runs.comparison import PERPLEXITY, Form, percent
from tspin.tools import intervals

PROMPTS = 30  # that are shown
# changes no number, or says it twice
FREE = ("name", f"loss.{TARGET}", "loss.label", *IDENTITY_FREE)


@dataclass(frozen=True)
class Side:
    """A run after iteration t (BASE: before the first)."""

    runs: Runs
    run: Run
    t: int

    @property
    def name(self) -> str:
        when = "before the first iteration" if self.t == BASE else f"after iteration {self.t}"
        return f"{self.run.name}, {when}"


@dataclass(frozen=True)
class Difference:
    """A minus B in one measure, over the held-out prompts of both where those are known; of
    perplexity by how many percent A is above B."""

    measure: Measure
    a: float
    b: float
    over: intervals.Interval

    @property
    def text(self) -> str:
        return self._form.of_difference(self.over, self._form.difference_unit)

    @property
    def verdict(self) -> str:
        """Of A against B: better | worse where the whole interval lies on one side."""
        return self._form.verdict(self.over)

    def shown(self, value: float) -> str:
        return self._form.of(value)

    @property
    def _form(self) -> Form:
        """Units stand beside the measure's name; a difference is in that of the measure, but where
        it is relative."""
        form = self.measure.form
        if form == PERPLEXITY:
            return form
        return replace(form, unit="", difference="", difference_unit="")


def side(folder: Path, iteration: str = "") -> Side:
    """iteration: a number, "base", or "" for the last. ValueError for what is not there."""
    runs = Runs.read_one(folder)
    (run,) = runs
    done = run.folder.iterations()
    if iteration == "base":
        return Side(runs, run, BASE)
    if not done:
        raise ValueError(f"{folder} has no finished iteration yet; python -m tspin status")
    if not iteration:
        return Side(runs, run, done[-1])
    if iteration not in map(str, done):
        raise ValueError(
            f"iteration {iteration} is none of {folder}'s; use base or one of "
            f"{', '.join(map(str, done))}"
        )
    return Side(runs, run, int(iteration))


def page(a: Side, b: Side, *, alone: bool = True) -> str:
    """The page as text. alone: whether there are no other pages to lead to"""
    return render(
        "compare.html", live="", alone=alone, a=a, b=b, configuration=configuration(a, b),
        differences=differences(a, b), pictures=pictures(a, b), samples=samples(a, b),
    )  # fmt: skip


def configuration(a: Side, b: Side) -> list[tuple[str, str, str]]:
    """(key, of A, of B) where they differ; what changes no number is left out."""
    one, other = a.run.values, b.run.values
    keys = [key for key in sorted({*one, *other}) if not key.startswith(FREE)]
    pairs = [(key, str(one.get(key, "-")), str(other.get(key, "-"))) for key in keys]
    return [(key, left, right) for key, left, right in pairs if left != right]


def differences(a: Side, b: Side) -> list[Difference]:
    """Of every measure that both have."""
    result = []
    values = [_values(it) for it in (a, b)]
    for shown in measures.columns(a.runs):
        if all(shown.key in of for of in values):
            left, right = (of[shown.key] for of in values)
            apart = 100 * (left / right - 1) if shown.form == PERPLEXITY else left - right
            over = _paired(a, b, shown) or stats.mean_interval([apart])
            result.append(Difference(shown, left, right, over))
    return result


def pictures(a: Side, b: Side) -> list[curves.Picture]:
    """Every measure of both over iterations, on one axis."""
    shown = measures.columns(a.runs)
    if a.run.name == b.run.name:
        frames = [measures.values(a.runs, shown)]
    else:
        frames = [
            measures.values(it.runs, shown).assign(label=letter)
            for it, letter in zip((a, b), style.SIDES, strict=True)
        ]
    values = pd.concat(frames, ignore_index=True)
    drawn = [curves.measure(values, it, f"c{i}") for i, it in enumerate(shown[:4])]
    return [replace(picture, legend=()) for picture in drawn if picture is not None]


@dataclass(frozen=True)
class Samples:
    """Held-out prompts that A and B answer differently, where one is right and the other wrong
    first. rows: prompt, annotated, and (text, correct) of A and of B"""

    rows: list[dict[str, Any]]
    num_different: int
    num_prompts: int  # that both have answered


def samples(a: Side, b: Side) -> Samples:
    """At most PROMPTS rows."""
    tables = [_answers(it) for it in (a, b)]
    common = [i for i in tables[0] if i in tables[1]]
    different = [i for i in common if tables[0][i] != tables[1][i]]
    different.sort(key=lambda i: tables[0][i]["correct"] == tables[1][i]["correct"])
    chosen = different[:PROMPTS]
    kept = Triplets(a.run.folder)
    known = {*kept.ids()} & {*chosen}
    rows = {row["id"]: row for row in kept.rows(sorted(known), with_tokens=False)}
    result = []
    for name in chosen:
        row = rows.get(name, {})
        answers = [(table[name]["response"], table[name]["correct"]) for table in tables]
        texts = {"prompt": row.get("prompt") or name, "annotated": row.get("annotated")}
        result.append(texts | {"answers": answers})
    return Samples(result, len(different), len(common))


def _values(it: Side) -> dict[str, float]:
    values = measures.values(it.runs, measures.columns(it.runs))
    values = values[values["iteration"] == it.t]
    return dict(zip(values["key"], values["value"].astype(float), strict=True))


def _paired(a: Side, b: Side, shown: Measure) -> intervals.Interval | None:
    """Over the prompts of both; None where the measure is not of single ones."""
    kind, _, decoding = shown.key.partition(",")
    if kind == "exact_match":
        pairs = [comparison.right(it.runs, it.run, it.t, decoding) for it in (a, b)]
    elif shown.key in ("logp", "perplexity"):
        pairs = [it.runs.heldout_logps(it.run, it.t)["logp"] for it in (a, b)]
    else:
        return None
    both = pd.concat(pairs, axis=1, join="inner")
    if len(both) < 2:
        return None
    apart = (both.iloc[:, 0] - both.iloc[:, 1]).to_numpy()[None, :]
    if shown.key == "perplexity":
        num_tokens = a.runs.heldout_logps(a.run, a.t)["num_tokens"].reindex(both.index)
        over = percent(apart, num_tokens.to_numpy(dtype=float))
    else:
        over = intervals.bootstrap(shown.factor * apart)
    return None if over is None or math.isnan(over.mean) else replace(over, n=1)


def _answers(it: Side) -> Mapping[str, dict[str, Any]]:
    """By id the first answer of the first decoding."""
    frame = it.runs.answers(it.run, it.t).drop_duplicates("id")
    correct = [None if pd.isna(value) else bool(value) for value in frame["correct"]]
    return {
        name: {"response": text, "correct": right}
        for name, text, right in zip(frame["id"], frame["response"], correct, strict=True)
    }
