"""The report as files: the first page, the paper's page, and a page for every run.

Addresses are the same as those that `watch` serves, so that pages lead to each other alike.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from analysis.reading.methods import Run
from analysis.reading.runs import Runs
from analysis.reading.triplets import ORDERS, Triplets
from analysis.report import overview, run_page
from analysis.report.environment import embedded, part
from tspin.tools.files import write_text
from tspin.tools.log import first_line

log = logging.getLogger("tspin")
FOLDER = "runs"
MOST = 1000  # prompts of a run that a page brings along; `watch` has them all
INSIDE = 200_000  # characters of samples that stay inside the page of a run


def write(runs: Runs, out: Path, problems: Sequence[str]) -> None:
    """index.html and runs/NAME.html in `out`; problems: as they are to be listed."""
    for run in tqdm([*runs, *(run for run, _ in runs.twins)], "pages", disable=None, leave=False):
        try:
            write_run(runs.alone(run), run, out)
        except (OSError, ValueError, LookupError, TypeError) as error:  # costs only its own page
            log.debug("%s", run.name, exc_info=True)
            runs.problems.append(f"{run.folder.path}: no page ({first_line(error)})")
    text = overview.page(runs, list(dict.fromkeys([*problems, *runs.problems])))
    write_text(out / overview.NAME, text)


def write_run(runs: Runs, run: Run, out: Path) -> None:
    """The page of a run; of many prompts the texts are a script beside it, read when wanted."""
    kept = Triplets(run.folder)
    rows = kept.rows(kept.chosen(MOST))
    samples: dict[str, object] = {"total": len(kept), "orders": ORDERS}
    content = json.dumps(rows)
    if len(content) <= INSIDE:
        samples["rows"] = rows
    else:
        samples["script"] = f"{part(run.name)}.js"
        write_text(out / FOLDER / f"{run.name}.js", f"window.tspinRows = {embedded(rows)};\n")
    status = run_page.status_of(run)
    write_text(out / FOLDER / f"{run.name}.html", run_page.page(runs, run, status, samples))
