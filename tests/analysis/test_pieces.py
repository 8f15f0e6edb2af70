"""analysis.figures.pieces: tables as CSV, Markdown and LaTeX, drawings as PDF, PNG and CSV."""

import pandas as pd
import pytest

from analysis.figures import style
from analysis.figures.pieces import Column, Drawing, Table, escape, latex, markdown, write
from analysis.report import render

TABLE = Table(
    "t",
    "A caption with 5%.",
    (Column("label", "method"), Column("x", "x (%)", 1, better=1), Column("y", "y", 2, better=-1),
     Column("d", "change", 1, signed=True)),
    pd.DataFrame(
        {
            "label": ["a", "b_c", "b_c"],
            "x": [10.0, 20.04, 19.96],
            "x:low": [9.0, None, None],
            "x:high": [11.0, None, None],
            "y": [1.0, 2.0, None],
            "d": [None, 10.0, -1.0],
        }
    ),
    "label",
    ("nothing: `make it`",),
)  # fmt: skip


def test_markdown():
    """Bold where it prints as the best, also twice; an interval as +- half of it; - for nothing."""
    assert markdown(TABLE).splitlines() == [
        "**t.** A caption with 5%.",
        "",
        "| method | x (%) | y | change |",
        "|---|---:|---:|---:|",
        "| a | 10.0 +- 1.0 | **1.00** | - |",
        "| b_c | **20.0** | 2.00 | +10.0 |",
        "| b_c | **20.0** | - | -1.0 |",
        "",
        "Missing:",
        "",
        "- nothing: `make it`",
    ]


def test_latex():
    text = latex(TABLE)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert rows == [
        r"method & x (\%) & y & change \\",
        r"a & 10.0 $\pm$ 1.0 & \textbf{1.00} & - \\",
        r"b\_c & \textbf{20.0} & 2.00 & +10.0 \\",
        r"b\_c & \textbf{20.0} & - & -1.0 \\",
    ]
    assert text.count(r"\midrule") == 2  # below the head, between the two methods
    assert r"\caption{A caption with 5\%.}" in text and "% missing: nothing" in text


@pytest.mark.parametrize(
    "plain, written", [("a_b", r"a\_b"), ("50% & more", r"50\% \& more"), ("r > 0", "r $>$ 0"),
                       ("x^2~", r"x\textasciicircum{}2\textasciitilde{}")],
)  # fmt: skip
def test_escape(plain, written):
    assert escape(plain) == written


def drawing(name="d"):
    with style.applied():
        drawn = style.figure(1, 1)
        drawn.axes[0].plot([0, 1], [0, 1])
    return Drawing(name, "", drawn, pd.DataFrame({"x": [0.5]}))


@pytest.mark.slow
def test_many_drawings_are_rendered_as_one_is():
    """In processes of their own, to the same bytes."""
    names = [f"d{i}" for i in range(render.MANY)]
    together = render.images([drawing(name) for name in names], ["svg", "png", "pdf"])
    assert list(together) == names
    (alone,) = render.images([drawing("d3")], ["svg", "png", "pdf"]).values()
    assert together["d3"] == alone and b"<svg" in alone["svg"]


@pytest.mark.slow
def test_files_are_the_same_every_time(tmp_path):
    for folder in ("a", "b"):
        write([TABLE, drawing()], render.images([drawing()]), tmp_path / folder)
    first, second = (sorted((tmp_path / folder).iterdir()) for folder in ("a", "b"))
    assert [path.name for path in first] == [
        "d.csv", "d.pdf", "d.png", "t.csv", "t.md", "t.tex"
    ]  # fmt: skip
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert (tmp_path / "a" / "d.csv").read_text() == "x\n0.5\n"


def test_a_variant_has_the_colour_of_its_objective_and_another_stroke():
    assert style.colour("T-SPIN alpha=0.3") == style.colour("T-SPIN") == style.COLOURS["T-SPIN"]
    assert style.colour("T-SPIN_ref") == style.COLOURS["T-SPIN_ref"]
    strokes = style.strokes(["T-SPIN alpha=0.3", "T-SPIN", "SPIN"])
    assert strokes["T-SPIN"] == strokes["SPIN"] != strokes["T-SPIN alpha=0.3"]
    assert style.in_order(["other", "T-SPIN", "SFT x=1", "SFT"]) == [
        "SFT", "SFT x=1", "T-SPIN", "other"
    ]  # fmt: skip
