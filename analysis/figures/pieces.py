"""What a report is made of: tables and drawings, with what is missing in them; and how they are
saved: every table as CSV, Markdown and LaTeX, every drawing as PDF, PNG and CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from analysis.reading.methods import Setting
from analysis.reading.regimes import Regime
from analysis.reading.runs import Runs
from tspin.tools.files import atomic
from tspin.tools.intervals import Interval

LOW, HIGH = ":low", ":high"  # suffixes of the columns of an interval


@dataclass(frozen=True)
class Column:
    """A column of a table; `key` is that of the frame, its interval in key:low and key:high."""

    key: str
    title: str
    digits: int | None = None  # None: text, or a count
    better: int = 0  # 1 or -1: the best is bold
    signed: bool = False
    least: bool = False  # prints <0.001 where 0.000 would stand


@dataclass(frozen=True)
class Table:
    """Rows to be read, and the frame they are made from."""

    name: str  # file name
    caption: str
    columns: tuple[Column, ...]
    frame: pd.DataFrame
    group: str | None = None  # rows that share this column stand together
    missing: Sequence[str] = ()  # what is not there, and the command that makes it


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers it shows."""

    name: str
    caption: str
    figure: Figure
    data: pd.DataFrame
    missing: Sequence[str] = ()


Piece = Table | Drawing
Part = TypeVar("Part", Setting, Regime)


def of_each(
    parts: Sequence[Part], name: str, make: Callable[[Part, str], Iterable[Piece]]
) -> list[Piece]:
    """The pieces of every setting or regime; where there are several, their names tell which."""
    several = len(parts) > 1
    return [p for part in parts for p in make(part, f"{name}-{part.slug}" if several else name)]


def of_settings(
    runs: Runs, name: str, make: Callable[[Runs, Setting, str], Iterable[Piece]]
) -> list[Piece]:
    """`of_each` setting, with its runs."""
    return of_each(runs.settings(), name, lambda part, named: make(runs.of(part), part, named))


def spread(key: str, interval: Interval) -> dict[str, float]:
    """An interval as columns of a table."""
    return {key: interval.mean, key + LOW: interval.low, key + HIGH: interval.high}


def write(pieces: Iterable[Piece], images: Mapping[str, Mapping[str, bytes]], out: Path) -> None:
    """Saves the pieces in the folder `out`; images: of each drawing by format, see render.images"""
    for piece in pieces:
        contents: dict[str, str | bytes]
        if isinstance(piece, Table):
            contents = {"csv": csv(piece.frame), "md": markdown(piece), "tex": latex(piece)}
        else:
            pdf, png = (images[piece.name][ending] for ending in ("pdf", "png"))
            contents = {"csv": csv(piece.data), "pdf": pdf, "png": png}
        for ending, content in contents.items():
            with atomic(out / f"{piece.name}.{ending}") as path:
                path.write_bytes(content.encode() if isinstance(content, str) else content)


def csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def markdown(table: Table) -> str:
    """Caption, rows (the best in bold), and what is missing."""
    lines = [f"**{table.name}.** {table.caption}", ""]
    lines.append("| " + " | ".join(column.title for column in table.columns) + " |")
    lines.append("|" + "|".join("---" if c.digits is None else "---:" for c in table.columns) + "|")
    for row in cells(table):
        shown = [f"**{text}**" if bold else text for text, bold in row]
        escaped = (text.replace("|", "\\|").replace("\n", "<br>") for text in shown)
        lines.append("| " + " | ".join(escaped) + " |")
    if table.missing:
        lines += ["", "Missing:", "", *(f"- {line}" for line in table.missing)]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A booktabs table, a rule between groups of rows; needs only \\usepackage{booktabs}."""
    alignment = "".join("l" if column.digits is None else "r" for column in table.columns)
    head = " & ".join(escape(column.title) for column in table.columns)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(table.caption)}}}",
             rf"\label{{tab:{table.name}}}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule",
             rf"{head} \\", r"\midrule"]  # fmt: skip
    groups = table.frame[table.group].tolist() if table.group else [""] * len(table.frame)
    for before, group, row in zip([*groups[:1], *groups], groups, cells(table), strict=False):
        shown = [rf"\textbf{{{escape(text)}}}" if bold else escape(text) for text, bold in row]
        lines += [r"\midrule"] * (group != before) + [" & ".join(shown) + r" \\"]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    lines += [f"% missing: {' '.join(line.split())}" for line in table.missing]
    return "\n".join(lines) + "\n"


def cells(table: Table) -> list[list[tuple[str, bool]]]:
    """(text, whether bold) of every cell, as every format shows them."""
    best = {c.key: _best(table.frame[c.key], c) for c in table.columns if c.better}

    def is_best(value: Any, column: Column) -> bool:  # as printed: what reads the same is equal
        return column.key in best and best[column.key] == f"{value:.{column.digits}f}"

    return [
        [(_text(row, column), is_best(row[column.key], column)) for column in table.columns]
        for row in table.frame.to_dict("records")
    ]


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    text = text.replace("^", r"\textasciicircum{}").replace("~", r"\textasciitilde{}")
    return text.replace("+-", r"$\pm$").replace("<", "$<$").replace(">", "$>$").replace("\n", " ")


def _best(values: pd.Series, column: Column) -> str | None:
    present = values.dropna()
    best = present.max() if column.better > 0 else present.min()
    return f"{best:.{column.digits}f}" if len(present) > 1 else None


def _text(row: dict[str, Any], column: Column) -> str:
    value = row[column.key]
    if pd.isna(value):
        return "-"
    if column.digits is None:
        whole = isinstance(value, float) and value == int(value)
        return str(int(value)) if whole else str(value)
    if column.least and 0 <= value < 0.5 * 10**-column.digits:
        return f"<{10**-column.digits:.{column.digits}f}"
    text = f"{value:{'+' if column.signed else ''}.{column.digits}f}"
    high = row.get(column.key + HIGH)
    return text if pd.isna(high) else f"{text} +- {high - value:.{column.digits}f}"
