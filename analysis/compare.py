"""Two runs, or two iterations of one: differences in the terminal, and a page of them.

    python -m analysis compare RUN[:T] RUN[:T] [out=report/compare.html]

T is an iteration, or base for the initial policy; without it the last. The page has what differs
in the configurations, curves on one axis, paired differences with intervals, answers side by side.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.options import command, named
from tspin.runs.artifacts import RunDir
from tspin.tools.files import write_text

log = logging.getLogger("tspin")


def main(arguments: Sequence[str]) -> None:
    typed = named(arguments, "a", "b")
    with command(__doc__, typed, a="", b="", out="report/compare.html") as options:
        from analysis.report import comparison_page  # pandas and matplotlib: not for --help

        sides = [_side(comparison_page, key, options[key]) for key in ("a", "b")]
        for letter, it in zip("AB", sides, strict=True):
            sys.stdout.write(f"{letter}  {it.name}\n")
        for key, *values in comparison_page.configuration(*sides):
            sys.stdout.write(f"{key}: {' and '.join(values)}\n")
        for it in comparison_page.differences(*sides):
            numbers = f"{it.shown(it.a)} and {it.shown(it.b)}, A - B {it.text}"
            sys.stdout.write(f"{it.measure.axis}: {numbers}\n")
        write_text(Path(options["out"]), comparison_page.page(*sides))
        log.info("%s", options["out"])


def _side(pages: Any, key: str, text: str) -> Any:
    if not text:
        raise ValueError(f"{key}= is missing: runs/NAME, or runs/NAME:T for its iteration T")
    folder, iteration = Path(text).expanduser(), ""
    if not RunDir(folder).config.exists() and ":" in text:
        name, _, iteration = text.rpartition(":")
        folder = Path(name).expanduser()
    return pages.side(folder, iteration)
