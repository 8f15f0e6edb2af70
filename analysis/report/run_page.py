"""The page of one run: what happened, its curves, its samples, its configuration.

`write` leaves it as one file in the run's folder: what a run calls at its end, see docs/reports.md.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures import change, style
from analysis.reading import measures, triplets
from analysis.reading.methods import Run
from analysis.reading.rows import scores
from analysis.reading.runs import BASE, Runs
from analysis.reading.triplets import ORDERS, Triplets
from analysis.report import curves
from analysis.report.environment import embedded, render
from tspin.cli.status import Status, survey
from tspin.runs import heartbeat
from tspin.tools.files import write_text
from tspin.tracking import health

log = logging.getLogger("tspin")
NAME = "report.html"
FEW = 60  # prompts inside the one file of a run, of at most MOST characters
MOST = 1_000_000
SIDES = ("annotated", "synthetic")
INSTRUCTIONS = [
    measures.percent(f"{metric},greedy", title)
    for metric, title in {
        "exact_match": "prompts, strict",
        "prompt_loose": "prompts, loose",
        "instruction_strict": "instructions, strict",
        "instruction_loose": "instructions, loose",
        "strict_known": "prompts of known combinations",
        "strict_combination": "prompts of held-out combinations",
        "strict_family": "prompts with held-out families",
    }.items()
]


def write(folder: Path) -> Path:
    """`folder`/report.html: the run in this folder as one small file that needs nothing else.

    ValueError where there is no run that can be read.
    """
    runs = Runs.read_one(folder)
    (run,) = runs
    kept = Triplets(run.folder)
    rows = kept.rows(kept.chosen(FEW))
    while len(rows) > 1 and len(json.dumps(rows)) > MOST:
        rows = rows[: len(rows) // 2]
    samples = {"rows": rows, "total": len(kept), "orders": ORDERS}
    text = page(runs, run, status_of(run), samples, alone=True)
    write_text(folder / NAME, text)
    return folder / NAME


def at_end(folder: Path) -> Path | None:
    """`write`, for the end of a run: what goes wrong with a page is a line of the log, never the
    run's failure. -> the page, or None"""
    try:
        return write(folder)
    except Exception as error:
        log.warning("no %s: %s: %s", NAME, type(error).__name__, error)
        log.debug("%s", folder, exc_info=True)
        return None


def page(
    runs: Runs, run: Run, status: Status | None, samples: dict[str, Any], *,
    alone: bool = False, live: str = "",
) -> str:  # fmt: skip
    """The page as text.

    samples  how it gets its samples: "rows" inside it; "script", a file beside it; "url", from
             who serves it; with "total" and "orders"
    alone    whether there are no other pages to lead to
    live     the state (server) that it is made of and renews itself from; "": it does not
    """
    of_run = runs.where(lambda other: other.name == run.name)
    return render(
        "run.html", scripts=("samples.js", "live.js"), live=live, alone=alone, run=run,
        status=status, sentence=change.of(of_run, [run]), alerts=alerts(of_run, run, status),
        pictures=pictures(of_run, run), table=iterations(of_run, run),
        instructions=instructions(of_run, run),
        samples=embedded(samples), resume=runs.resume(run),
        values=[(key, str(value)) for key, value in run.values.items()],
    )  # fmt: skip


def status_of(run: Run) -> Status | None:
    """What the run is doing; None where its folder says nothing."""
    try:
        return survey(run.folder.path)[0]
    except (ValueError, OSError):
        return None


def alerts(runs: Runs, run: Run, status: Status | None) -> dict[str, str]:
    """Kind -> in words: what its numbers show now, and what it said itself."""
    begun = sorted({*run.folder.iterations(), *run.folder.begun()})
    known = [t for t in begun if not runs.steps(run, t).empty]
    ends = {t: runs.steps(run, t).to_dict("records") for t in (*known[:1], *known[-1:])}
    rows = {t: [_finite(row) for row in part] for t, part in ends.items()}
    now = health.alerts(rows, triplets.lengths(run.folder), triplets.finish_reasons(run.folder))
    beat = heartbeat.read(run.folder)
    own = {} if beat is None else beat.warnings
    more = [] if status is None else [line for line in status.warnings if line not in own.values()]
    # a warning of the run's own of the same kind tells of an earlier iteration
    return own | now | {f"run-{i}": line for i, line in enumerate(more)}


def pictures(runs: Runs, run: Run) -> list[curves.Picture]:
    """All that are not empty."""
    values = measures.values(runs, shown := measures.columns(runs))
    over = [curves.measure(values, it, f"m{i}") for i, it in enumerate(shown[:4])]
    done = run.folder.iterations()
    last = run.folder.iteration(done[-1] if done else 0)
    cells = runs.contingency
    spent = {t: runs.seconds(run, t) for t in done}
    drawn = [
        *over, *curves.of_steps(runs, run, "steps"),
        curves.contingency(cells[cells["split"] == "train"], "cells"),
        curves.lengths(triplets.lengths(run.folder), "lengths"),
        *(curves.distributions(scores(last.scores), "spread") if done else ()),
        curves.seconds(spent, "time"),
    ]  # fmt: skip
    return [picture for picture in drawn if picture is not None]


def iterations(runs: Runs, run: Run) -> dict[str, Any]:
    """head and rows of the table: a row per policy, the initial one first."""
    shown = measures.columns(runs)
    values = measures.values(runs, shown)
    cells = runs.contingency
    train = cells[cells["split"] == "train"].set_index("iteration")
    rows = []
    for t in (BASE, *run.folder.iterations()):
        own = values[values["iteration"] == t].set_index("key")
        row = [style.iteration(t)]
        row += [_with_interval(own, it) for it in shown]
        facts = train.loc[t] if t in train.index else {}
        row += [_text(facts.get(f"logps/{role}")) for role in SIDES]
        wrong = facts.get("reward_only", math.nan) + facts.get("logp_only", math.nan)
        row.append(_text(100 * wrong, 1))
        row.append(_text(100 * _chosen(runs, run, t), 1))
        seconds = {} if t == BASE else runs.seconds(run, t)
        row.append(_text(sum(seconds.values()) / 60 if seconds else None, 1))
        rows.append(row)
    head = ["iteration", *(it.axis for it in shown), "log pi(y)", "log pi(y')",
            "misaligned (%)", "chosen (%)", "minutes"]  # fmt: skip
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] != "-" for row in rows)]
    return {"head": [head[i] for i in kept], "rows": [[row[i] for i in kept] for row in rows]}


def instructions(runs: Runs, run: Run) -> dict[str, Any] | None:
    """head and rows of the table of instructions followed by greedy answers: a column per policy,
    at the end a row per family. None where prompts have no instructions that are judged."""
    values = runs.evaluation
    families = values.loc[values["part"] == "family", "key"].str.extract(r"^(\w+),strict,greedy$")[
        0
    ]
    if not families.notna().any():
        return None
    shown = [*INSTRUCTIONS, *(measures.percent(f"{family},strict,greedy", family)
                              for family in sorted({*families.dropna()}))]  # fmt: skip
    policies = (BASE, *run.folder.iterations())
    of = {t: values[values["iteration"] == t].set_index("key") for t in policies}
    of = {t: own.assign(value=100 * own["value"]) for t, own in of.items()}
    rows = [[it.title, *(_with_interval(of[t], it) for t in policies)] for it in shown]
    head = ["greedy answers, %", *map(style.iteration, policies)]
    return {"head": head, "rows": [row for row in rows if any(cell != "-" for cell in row[1:])]}


def _chosen(runs: Runs, run: Run, t: int) -> float:
    """The share of the training prompts that got a new y'; NaN where all do anyway."""
    if t < 1 or run.values.get("curriculum.prompts", "all") == "all":
        return math.nan
    return runs.sampled(run, t).share


def _with_interval(values: pd.DataFrame, shown: measures.Measure) -> str:
    """ "52.8 [49.3, 56.3]", as the console has it"""
    if shown.key not in values.index:
        return "-"
    row = values.loc[shown.key]
    value, digits = float(row["value"]), 1 if shown.unit == "%" else shown.digits
    low, high = measures.over_prompts(shown, row)
    if math.isnan(low + high):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not math.isnan(value)}


def _text(value: Any, digits: int = 2) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
