"""The paper's page: its claims, tables and figures, and what goes beyond them, from run folders.

Pieces that have nothing to show are left out: what they lack is one list at the end, with the
commands that make it. Words come from the pieces, `claims` and run folders; how it looks is in
template/. Every text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims import claims
from analysis.figures import responses, results, style
from analysis.figures.pieces import Drawing, Piece, Table, cells
from analysis.reading.runs import Runs
from analysis.report import catalogue, environment, render
from analysis.report.environment import data_url
from analysis.report.overview import lacking
from tspin.tools.files import write_text

NAME = "paper.html"
METHODS = ("label", "a", "b")  # columns that hold a method, shown with its colour
NO_METHODS = (results.START, responses.DATA)  # but for these
TWICE = ("objectives",)  # on the first page, as curves
ABLATIONS = ("table2", "figure5", "figure4b")  # two methods against each other
SHORT = 24  # characters of a cell that stay on one line
TALL = 12  # rows, beyond which a table scrolls in its box
DPI = 96  # CSS pixels of an inch
KNOWN = (claims.SUPPORTED, claims.NOT_SUPPORTED)


def write(
    runs: Runs,
    pieces: Sequence[Piece],
    images: Mapping[str, render.Images],
    judged: Sequence[claims.Judged],
    out: Path,
    *,
    files: bool = True,
) -> Path:
    """The page of `pieces` and the runs they were made from, in the folder `out`. -> its path"""
    write_text(out / NAME, page(runs, pieces, images, judged, files=files))
    return out / NAME


def page(
    runs: Runs,
    pieces: Sequence[Piece],
    images: Mapping[str, render.Images],
    judged: Sequence[claims.Judged],
    *,
    files: bool = True,
) -> str:
    """The page as text.

    images  of the drawings, as SVG, see render.images
    judged  the claims, see claims.judge
    files   whether every piece stands beside the page as files, too
    """
    shown = [it for it in pieces if has_content(it) and not it.name.startswith(TWICE)]
    decided = [(it, [f for f in it.findings if f.verdict in KNOWN]) for it in judged]
    undecided = [
        f"{it.claim.statement} ({finding.regime}): {finding.way_out}"
        for it in judged
        for finding in it.findings
        if finding.verdict not in KNOWN
    ]
    verdicts = [finding.verdict for _, findings in decided for finding in findings]
    lines = [line for piece in pieces for line in piece.missing]
    settings = [(str(setting), setting.slug) for setting in runs.settings()]
    return environment.render(
        "paper.html", scripts=("live.js",), tables=True, live="", tall=TALL, files=files,
        runs=runs, settings=settings, judged=[pair for pair in decided if pair[1]],
        verdicts={verdict: verdicts.count(verdict) for verdict in KNOWN},
        num_undecided=len(undecided), groups=_groups(shown, images, runs),
        lacking=lacking([*undecided, *lines]),
    )  # fmt: skip


def has_content(piece: Piece) -> bool:
    """Whether there is something to see, rather than an empty axis or what stands elsewhere."""
    if piece.name.partition("-")[0] in ABLATIONS:  # of one method they repeat Table 1
        frame = piece.data if isinstance(piece, Drawing) else piece.frame
        return len({*frame["label"]} - {results.START}) > 1
    if isinstance(piece, Drawing):
        points = {"figure4a": "size", "figure4c": "alpha"}.get(piece.name.partition("-")[0])
        if points is None or piece.name.endswith("-paper"):
            return not piece.data.empty
        by = ["alpha", "beta"] if points == "alpha" else [points]
        return len(piece.data.drop_duplicates(by)) > 1
    if "shots_had" in piece.frame:  # the benchmarks as configured: of interest once they were run
        return bool(piece.frame["n"].notna().any())
    return not piece.frame.empty


# --- what the template is given -------------------------------------------------------------------


def _groups(
    pieces: Sequence[Piece], images: Mapping[str, render.Images], runs: Runs
) -> list[dict[str, Any]]:
    """The pieces that one name of the catalogue made, together, in their order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for piece in pieces:
        groups.setdefault(_heading(piece.name), []).append(_view(piece, images, runs))
    paper = {_heading(name) for name in catalogue.OF_PAPER}
    return [
        {"heading": heading, "pieces": views, "folded": heading not in paper}
        for heading, views in groups.items()
    ]


def _view(piece: Piece, images: Mapping[str, render.Images], runs: Runs) -> dict[str, Any]:
    """A piece in words, for the template."""
    subject = _subject(piece.name)
    of = [setting for setting in runs.settings() if subject.startswith(setting.slug)]
    view: dict[str, Any] = {
        "name": piece.name, "caption": piece.caption, "is_table": isinstance(piece, Table),
        "subject": subject, "setting": max((it.slug for it in of), key=len, default=""),
    }  # fmt: skip
    if isinstance(piece, Drawing):
        width = round(piece.figure.get_size_inches()[0] * DPI)
        source = data_url("image/svg+xml", images[piece.name][render.SHOWN])
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


# --- words ----------------------------------------------------------------------------------------


def _heading(name: str) -> str:
    """ "Figure 4a" of "figure4a-micro-micro"; "Comparison" of "comparison"."""
    return re.sub(r"(\d+)", r" \1", name.partition("-")[0]).capitalize()


def _subject(name: str) -> str:
    """What a piece is of, where there are several: the setting, or the paper's own numbers."""
    rest = name.removesuffix("-figure").partition("-")[2]
    return "as the paper prints it" if rest == "paper" else rest
