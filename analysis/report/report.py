"""Every table and figure of the paper from run folders: all of them, or the one named.

    python -m analysis all [runs=RUNS] [out=REPORT] [with_paper=true]
    python -m analysis figure3 [runs=RUNS] [out=REPORT] [iteration=1]

`all` also leaves pages that need no network: index.html says what happened in every run and leads
to a page of each, with its curves and samples, and to paper.html: the paper's claims with the
evidence in these runs, every table and figure that has some. Tables are saved as CSV, Markdown and
LaTeX, figures as PDF, PNG and CSV of what they show; what is wrong with a run, or missing for a
figure, is said and the rest is built. with_paper puts the paper's own numbers beside ours. Options
of single figures: iteration= (figure3, figure4a, figure4c, comparison), last= (figure7), prompt=
(table5).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.figures import pieces
from analysis.options import command
from analysis.reading.runs import Runs
from analysis.report import catalogue, render
from tspin.tools.files import write_text

log = logging.getLogger("tspin")
ALL = "all"
OPTIONS = {"iteration": int, "last": int, "prompt": str}  # of single figures, as they read them


def main(name: str, arguments: Sequence[str]) -> None:
    """name: ALL, or one of catalogue.NAMES"""
    own = [] if name == ALL else [o for o in OPTIONS if o in catalogue.parameters(name)]
    usual = {"runs": "runs", "out": "report", "with_paper": "false"}
    with command(__doc__, arguments, **usual, **dict.fromkeys(own, "")) as options:
        given = {key: _typed(key, options[key]) for key in own if options[key]}
        runs = Runs.read(Path(options["runs"]))
        names = catalogue.NAMES if name == ALL else (name,)
        with_paper = options["with_paper"] == "true"
        built = catalogue.build(runs, names, with_paper=with_paper, **given)
        out = Path(options["out"])
        formats = (*render.SAVED, render.SHOWN) if name == ALL else render.SAVED
        images = render.images(built, formats)
        if name == ALL:
            from analysis.claims import claims
            from analysis.report import page, site  # their libraries take a while to import

            judged = claims.judge(runs)
            page.write(runs, built, images, judged, out)
            built.append(claims.table(judged))
            site.write(runs, out, runs.problems)
        pieces.write(built, images, out)
        write_text(out / "problems.txt", "".join(f"{line}\n" for line in runs.problems))
        for problem in runs.problems:
            log.warning("%s", problem)
        log.info("%d runs, %d tables and figures: %s", len(runs), len(built), out)


def _typed(key: str, value: str) -> Any:
    try:
        return OPTIONS[key](value)
    except ValueError:
        raise ValueError(f"{key}={value} has to be a whole number") from None
