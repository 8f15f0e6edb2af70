"""The report as one page: claims, tables, figures, samples and configurations in index.html.

Everything is inside the file, and its content policy lets a browser load nothing else. Words come
from the pieces, `claims` and run folders; how it looks and behaves is in template/. Every text is
escaped: responses may hold markup.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from itables import options as datatables
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.claims import claims
from analysis.figures import responses, results, style
from analysis.figures.pieces import Drawing, Piece, Table, cells
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs
from analysis.report import render
from tspin.tools.files import write_text

FOLDER = Path(__file__).parent / "template"
NAME = "index.html"
METHODS = ("label", "a", "b")  # columns that hold a method, shown with its colour
NO_METHODS = (results.START, responses.DATA)  # but for these
# What the samples browser holds at most, so that the page stays below some 10 MB.
MAX_RUNS = 40
MAX_PROMPTS = 24  # of a run
MAX_TEXT = 2000  # characters of a prompt or a response
MAX_SAMPLES = 4_000_000  # characters of all of them; above it, fewer prompts of each run
SHORT = 24  # characters of a cell that stay on one line
TALL = 40  # rows, beyond which a table scrolls in its box
DPI = 96  # CSS pixels of an inch


def write(
    runs: Runs,
    pieces: Sequence[Piece],
    images: Mapping[str, render.Images],
    judged: Sequence[claims.Judged],
    out: Path,
    problems: Sequence[str],
) -> Path:
    """The page of `pieces` and the runs they were made from, in the folder `out`. -> its path

    images    of the drawings, as SVG, see render.images
    judged    the claims, see claims.judge
    problems  what is wrong with runs, as it is to be listed; what this page meets is added
    """
    browser = samples(runs)
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"coded": _coded, "slug": _slug}
    bundle = Path(datatables.dt_bundle)
    verdicts = [finding.verdict for it in judged for finding in it.findings]
    known = (claims.SUPPORTED, claims.NOT_SUPPORTED, claims.NOT_ENOUGH)
    text = environment.get_template("page.html").render(
        runs=runs,
        settings=[_setting(runs.of(setting), setting) for setting in runs.settings()],
        judged=judged,
        verdicts={verdict: verdicts.count(verdict) for verdict in known},
        groups=_groups(pieces, images),
        samples=browser,
        tall=TALL,
        configurations=_configurations(runs),
        problems=list(dict.fromkeys([*problems, *runs.problems])),
        colours={run.label: style.colour(run.label) for run in runs},
        styles=[_inline(bundle.with_suffix(".css")), _inline(FOLDER / "page.css")],
        script=_inline(FOLDER / "page.js"),
        modules={"imports": {"datatables": _data_url("text/javascript", bundle.read_bytes())}},
    )
    write_text(out / NAME, text)
    return out / NAME


def samples(runs: Runs) -> dict[str, Any]:
    """What the samples browser shows.

    runs     name, label, setting, colour, and prompts: id, split, prompt, annotated, proto, and
             iterations: t, response, scores {role: [log-likelihood, reward]}
    bound    in words, what was left out
    """
    order = {label: rank for rank, label in enumerate(style.in_order(runs.labels()))}
    chosen = sorted(runs, key=lambda run: (not run.is_main, run.seed, order[run.label]))
    chosen = sorted(chosen[:MAX_RUNS], key=lambda run: (run.setting, order[run.label], run.seed))
    shown = []
    for run in chosen:
        try:
            shown.append(_browsed(runs, run))
        except (KeyError, TypeError) as error:  # rows of another layout cost only their run
            runs.problems.append(f"{run.folder.path}: its samples cannot be shown ({error!r})")
    most = max((len(run["prompts"]) for run in shown), default=0)
    while most > 1 and len(json.dumps(shown)) > MAX_SAMPLES:
        most //= 2
        shown = [run | {"prompts": run["prompts"][:most]} for run in shown]
    prompts = f"at most {most} prompts of each (of those in its readable samples)"
    bound = f"{len(shown)} of {len(runs)} runs, {prompts}, texts cut at {MAX_TEXT} characters."
    return {"runs": shown, "bound": bound}


def _browsed(runs: Runs, run: Run) -> dict[str, Any]:
    prompts: dict[str, dict[str, Any]] = {}
    for t in run.folder.iterations():
        numbers = _numbers(runs.scores(run, t), t)
        for row in runs.samples(run, t):
            if row["id"] not in prompts and len(prompts) == MAX_PROMPTS:
                continue
            texts = {key: _cut(row.get(key)) for key in ("prompt", "annotated", "proto")}
            facts = {"id": row["id"], "split": row["split"], **texts, "iterations": []}
            iteration = {"t": t, "response": _cut(row.get("synthetic")),
                         "scores": numbers.get(row["id"], {})}  # fmt: skip
            prompts.setdefault(row["id"], facts)["iterations"].append(iteration)
    return {
        "name": run.name, "label": run.label, "setting": str(run.setting), "seed": run.seed,
        "colour": style.colour(run.label), "prompts": list(prompts.values()),
    }  # fmt: skip


def _numbers(scores: pd.DataFrame, t: int) -> dict[str, dict[str, list[float | None]]]:
    """{id: {role: [log-likelihood, reward]}} after iteration t; None where there is no number."""
    numbers: dict[str, dict[str, list[float | None]]] = {}
    for row in scores[scores["source"] == t].itertuples():
        numbers.setdefault(row.id, {})[row.role] = [_number(row.logp), _number(row.reward)]
    return numbers


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 3)


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]} [cut, {len(text)} characters]"


# --- what the template is given -------------------------------------------------------------------


def _setting(runs: Runs, setting: Setting) -> dict[str, Any]:
    usual = runs.where(lambda run: run.is_main).labels()
    return {
        "name": str(setting),
        "num_runs": len(runs),
        "labels": style.in_order(usual),
        "num_variants": len(runs.labels()) - len(usual),
        "seeds": sorted({run.seed for run in runs}),
    }


def _groups(pieces: Sequence[Piece], images: Mapping[str, render.Images]) -> list[dict[str, Any]]:
    """The pieces that one name of the catalogue made, together, in their order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for piece in pieces:
        groups.setdefault(_heading(piece.name), []).append(_view(piece, images))
    return [{"heading": heading, "pieces": views} for heading, views in groups.items()]


def _view(piece: Piece, images: Mapping[str, render.Images]) -> dict[str, Any]:
    """A piece in words, for the template."""
    view: dict[str, Any] = {
        "name": piece.name, "caption": piece.caption, "missing": piece.missing,
        "is_table": isinstance(piece, Table), "subject": _subject(piece.name),
    }  # fmt: skip
    if isinstance(piece, Drawing):
        width = round(piece.figure.get_size_inches()[0] * DPI)
        source = _data_url("image/svg+xml", images[piece.name][render.SHOWN])
        return view | {"source": source, "width": width, "files": ("pdf", "png", "csv")}
    values = {column.key: piece.frame[column.key] for column in piece.columns}
    numeric = {key: pd.api.types.is_numeric_dtype(column) and not column.isna().all()
               for key, column in values.items()}  # fmt: skip
    head = [{"title": c.title, "numeric": numeric[c.key]} for c in piece.columns]
    rows = [
        [
            _cell(row[column.key], column.key, text, bold, numeric[column.key])
            for (text, bold), column in zip(shown, piece.columns, strict=True)
        ]
        for shown, row in zip(cells(piece), piece.frame.to_dict("records"), strict=True)
    ]
    return view | {"head": head, "rows": rows, "files": ("csv", "md", "tex")}


def _cell(value: Any, key: str, text: str, bold: bool, numeric: bool) -> dict[str, Any]:
    """text, bold, short (stays on one line), order (what it is sorted by; None: by its text),
    colour (None: no method)"""
    order = ("-Infinity" if pd.isna(value) else f"{value:.10g}") if numeric else None
    is_method = key in METHODS and text not in NO_METHODS
    return {
        "text": text.replace("+-", "\u00b1"), "bold": bold, "order": order,
        "short": not numeric and len(text) <= SHORT,
        "colour": style.colour(text) if is_method else None,
    }  # fmt: skip


def _configurations(runs: Runs) -> dict[str, Any]:
    """What differs between runs, a row per run; and every configuration as it is."""
    texts = pd.DataFrame([{k: _text(v) for k, v in run.values.items()} for run in runs])
    texts = texts.fillna(_text(None)).drop(columns=["name", "seed", "loss.label"])
    differing = list(texts.columns[texts.nunique() > 1])
    rows = [
        {
            "name": run.name, "label": run.label, "colour": style.colour(run.label),
            "seed": run.seed, "done": len(run.folder.iterations()), "values": values,
            "whole": "\n".join(f"{key}: {_text(value)}" for key, value in run.values.items()),
        }
        for run, values in zip(runs, texts[differing].to_numpy().tolist(), strict=True)
    ]  # fmt: skip
    return {"differing": differing, "rows": rows}


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


# --- words ----------------------------------------------------------------------------------------


def _heading(name: str) -> str:
    """ "Figure 4a" of "figure4a-micro-micro"; "Comparison" of "comparison"."""
    return re.sub(r"(\d+)", r" \1", name.partition("-")[0]).capitalize()


def _subject(name: str) -> str:
    """What a piece is of, where there are several: the setting, or the paper's own numbers."""
    rest = name.partition("-")[2]
    return "as the paper prints it" if rest == "paper" else rest


def _slug(heading: str) -> str:
    return heading.lower().replace(" ", "")


def _coded(line: str) -> Markup:
    """A line with its `commands` as code."""
    return Markup(re.sub("`([^`]*)`?", r"<code>\1</code>", str(escape(line))))


def _inline(path: Path) -> Markup:
    """A script or a style of ours, or of the table library, as it stands."""
    text = path.read_text(encoding="utf-8")
    assert "</script" not in text and "</style" not in text, path
    return Markup(text)


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
