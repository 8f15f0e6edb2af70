"""The first page of a report: what happened, one sentence for each method of each setting, its
curves, the runs, and last what was not run with the commands that do it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.figures import change, style
from analysis.reading import measures, missing, paper
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs
from analysis.report import curves, run_page
from analysis.report.environment import render, slug
from tspin.cli.status import STATES, Status, survey

NAME = "index.html"
PANELS = 4
COMMAND = re.compile("`([^`]*)`")
GRID = ("coef.alpha=", "coef.beta=")  # keys of a sweep's points, Figure 4c's
MANY = 8  # methods with a curve of their own, before variants are left to their lines


def page(runs: Runs, problems: Sequence[str], *, live: str = "", paper: bool = True) -> str:
    """The page as text.

    problems  what is wrong with runs
    live      the state (server) that it is made of and renews itself from; "": it does not
    paper     whether there is a page of the paper's tables and figures
    """
    statuses = states(runs)
    every = [*((run, "") for run in runs), *runs.twins]
    rows = [
        _row(runs.alone(run), run, statuses.get(run.name)) | {"of_method": name}
        for run, name in every
    ]
    order = {state: rank for rank, state in enumerate(STATES)}
    rows.sort(key=lambda row: (order.get(row["state"], 0), row["label"], row["seed"]))
    settings = [_setting(runs.of(setting), setting) for setting in runs.settings()]
    lines = [line for setting in runs.settings() for line in _missing(runs.of(setting), setting)]
    running = [row for row in rows if row["state"] in ("running", "waiting")]
    return render(
        "overview.html", scripts=("live.js",), tables=True, live=live, paper=paper,
        settings=settings, rows=rows, running=running, lacking=lacking(lines), problems=problems,
        alerts=[(row["name"], text) for row in rows for text in row["alerts"]],
    )  # fmt: skip


def states(runs: Runs) -> Mapping[str, Status]:
    """By the names of runs, what each is doing."""
    folders = {run.folder.path.parent for run in runs}
    statuses: dict[str, Status] = {}
    for folder in sorted(folders):
        try:
            statuses |= {status.run: status for status in survey(Path(folder))}
        except (ValueError, OSError):
            continue
    return statuses


def lacking(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Command -> what it would give, of lines "what: `command`"; each once, most useful first.

    A command that makes a part of what another makes, some points of a grid or one seed, is left to
    the other.
    """
    by_command: dict[str, list[str]] = {}
    for line in lines:
        if match := COMMAND.search(line):
            what = line[: match.start()].rstrip(": ")
            by_command.setdefault(match[1], []).append(what)
    words = {command: {*shlex.split(command)} for command in by_command}
    for part in list(by_command):
        for whole in by_command:
            more, fewer = words[part] - words[whole], words[whole] - words[part]
            if part != whole and _narrows(more) and all(w.startswith("seed=") for w in fewer):
                by_command[whole] += by_command.pop(part)
                break
    return [(command, list(dict.fromkeys(what))) for command, what in by_command.items()]


def _narrows(words: Iterable[str]) -> bool:
    """Whether these words choose among a sweep's points, and make no others."""
    return all(word.startswith(GRID) for word in words)


def _setting(runs: Runs, setting: Setting) -> dict[str, Any]:
    done = runs.where(lambda run: bool(run.folder.iterations()))
    shown = measures.columns(done)
    main = measures.main_number(shown)
    members = done.by_label()
    labels = style.in_order(members)
    sentences = [
        {"label": label, "change": change.of(done, members[label], main) if main.key else None}
        for label in labels
    ]
    drawn = labels if len(labels) <= MANY else style.in_order(
        done.where(lambda run: run.is_main).labels()
    )  # fmt: skip
    values = measures.values(done.where(lambda run: run.label in drawn), shown)
    if len(done) != len(members):
        values = values.drop(columns="stderr")  # over seeds, not over prompts
    name = slug(str(setting))
    pictures = [curves.measure(values, it, f"{name}-{i}") for i, it in enumerate(shown[:PANELS])]
    return {
        "name": str(setting), "slug": name, "sentences": sentences,
        "pictures": [picture for picture in pictures if picture is not None],
        "legend": [(label, style.colour(label)) for label in drawn],
        "seeds": sorted({run.seed for run in done}),
    }  # fmt: skip


def _row(runs: Runs, run: Run, status: Status | None) -> dict[str, Any]:
    changed = change.of(runs, [run])
    state = status.state if status else "complete" if run.folder.iterations() else "not started"
    doing = ""
    if status is not None and status.stage is not None:
        place = "" if status.iteration is None else f"iteration {status.iteration}: "
        share = "" if status.share is None else f", {status.share:.0%}"
        doing = f"{place}{status.stage}{share}"
    return {
        "name": run.name, "label": run.label, "seed": run.seed, "state": state, "doing": doing,
        "done": len(run.folder.iterations()), "of": run.iterations,
        "numbers": changed.numbers if changed else "", "setting": str(run.setting),
        "slug": slug(str(run.setting)), "verdict": changed.verdict if changed else "",
        "order": changed.end if changed else None,
        "alerts": _alerts(runs, run, status),
    }  # fmt: skip


def _alerts(runs: Runs, run: Run, status: Status | None) -> list[str]:
    try:
        return [*run_page.alerts(runs, run, status).values()]
    except (OSError, ValueError, LookupError, TypeError):  # damaged: its page says what
        return []


def _missing(runs: Runs, setting: Setting) -> list[str]:
    usual = runs.where(lambda run: run.is_main)
    lines = missing.iterations(runs)
    lines += missing.seeds(usual, "seeds", setting)
    return lines + missing.objectives(usual, paper.LOSSES, "seeds", setting, "seed=0,1,2")
