"""`python -m tspin likelihood`: how likely other text is under a run's policies, beside base."""

from __future__ import annotations

import csv
import logging
import math
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from tspin.cli.options import KeyParser
from tspin.cli.stored_run import StoredRun
from tspin.data import annotated
from tspin.data.files import SOURCES
from tspin.runs import evaluation
from tspin.runs.artifacts import RunDir, run_dirs
from tspin.runs.comparison import interval, per_token
from tspin.tools.files import write_text
from tspin.tools.terminal import table

ALL, BASE = "all", "base"
WIDTH = 100  # characters of a table
# Columns of out=. key: of what decides the numbers of a run
WORDS, COUNTS = ("run", "key", "iteration"), ("n", "tokens")
NUMBERS = (
    *("logp", "logp_per_token", "logp_per_token_low", "logp_per_token_high", "perplexity"),
    *("difference", "difference_low", "difference_high"),
)
Score = dict[str, Any]  # of a response, as evaluation.of_scores takes it
Row = dict[str, Any]  # a line of out=

log = logging.getLogger("tspin")


def parser() -> KeyParser:
    options = KeyParser(
        "likelihood",
        about="What did this training forget? log pi(y) of the responses of other pairs under the "
        "initial policy\n(base) and under policies of the run, in its own template: in nats a "
        "response and a token, as\nperplexity, and the difference from base, paired by response, "
        "with 95% intervals. Rows that cannot\nbe used are named and left out. Nothing is written "
        "into the run's folder.\nout= is written after each run, and goes on behind those it has.",
        examples="  python -m tspin likelihood run=runs/NAME data=other.jsonl\n"
        "  python -m tspin likelihood run=runs/NAME data=other.jsonl iteration=all limit=500\n"
        "  python -m tspin likelihood run=runs data=other.jsonl out=forgotten.csv",
    )
    options.option("run", "the folder of a run, or of runs: runs/NAME, runs")
    options.option("data", f"pairs: {SOURCES}, or a hub id OWNER/NAME")
    weights = f"best, last, a number, or {ALL}: each one whose weights are there"
    options.option("iteration", weights, default="last")
    options.option("limit", "the first so many pairs alone", default="")
    options.option("out", "FILE.csv: a row a policy of a run", default="")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().read(arguments)
    limit, data, out = options["limit"], options["data"], Path(options["out"]).expanduser()
    if limit and not (limit.isdecimal() and int(limit)):
        raise ValueError(f"limit={limit} is no whole number from 1")
    if options["out"] and out.is_dir():
        raise ValueError(f"out={out} is a folder; write out=FILE.csv")
    chosen = _chosen(options["run"], options["iteration"])
    source = annotated.read_pairs(data, skip_bad_rows=True)
    if source.num_skipped:
        why = "; ".join(source.reasons)
        log.warning("%s: %d rows left out: %s", data, source.num_skipped, why)
    if source.unused:
        log.info("columns not used: %s", ", ".join(source.unused))

    from tspin.selfplay.likelihood import Likelihoods  # torch: not for --help

    likelihoods = Likelihoods(source.pairs[: int(limit)] if limit else source.pairs)
    keys = {run.name: likelihoods.key(run.folder, checkpoints) for run, checkpoints in chosen}
    before = _read(out) if options["out"] else {}
    done = {name: before[name, key] for name, key in keys.items() if (name, key) in before}
    for i, (run, checkpoints) in enumerate(chosen):
        if run.name not in done:
            base, *others = likelihoods.of_run(run.cfg, run.folder, run.rendering, checkpoints)
            policies: list[int | str] = [BASE, *checkpoints]
            done[run.name] = [
                _row(run.name, keys[run.name], policy, scores, base)
                for policy, scores in zip(policies, (base, *others), strict=True)
            ]
            if options["out"]:
                _write(out, [row for name in keys for row in done.get(name, ())])
        sys.stdout.write("\n" * (i > 0) + _text(run.name, Path(data).name, done[run.name]))
    if options["out"]:
        log.info("%s", out)


def _read(out: Path) -> dict[tuple[str, str], list[Row]]:
    """What an earlier call left there, by run and key; nothing of a file of another kind."""
    runs: dict[tuple[str, str], list[Row]] = {}
    if out.exists():
        with out.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if {*row} != {*WORDS, *COUNTS, *NUMBERS}:
                    return {}
                counts = {name: int(row[name]) for name in COUNTS}
                numbers = {name: float(row[name]) for name in NUMBERS}
                runs.setdefault((row["run"], row["key"]), []).append(row | counts | numbers)
    return runs


def _write(out: Path, rows: Sequence[Row]) -> None:
    file = StringIO()
    writer = csv.DictWriter(file, [*WORDS, *COUNTS, *NUMBERS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out, file.getvalue())


def _chosen(path: str, iteration: str) -> list[tuple[StoredRun, dict[int, Path]]]:
    """The run or the runs in a folder, each with the weights of the iterations that are meant.

    A run that has none is named and left out; ValueError where no other is left.
    """
    folder = Path(path).expanduser()
    runs = [] if RunDir(folder).config.exists() else [str(run.path) for run in run_dirs(folder)]
    chosen, lacking = [], []
    for name in runs or [path]:
        try:
            run = StoredRun.open(name)
            chosen.append((run, _checkpoints(run, iteration)))
        except ValueError as error:
            lacking.append(str(error))
    if not chosen:
        raise ValueError(lacking[0])
    for why in lacking:
        log.warning("left out: %s", why)
    return chosen


def _checkpoints(run: StoredRun, iteration: str) -> dict[int, Path]:
    outs = run.kept() if iteration == ALL else []
    outs = outs or [run.iteration("last" if iteration == ALL else iteration)]
    gone = sorted({*run.folder.iterations()} - {out.t for out in outs})
    if iteration == ALL and gone:
        numbers, keep = ", ".join(map(str, gone)), run.cfg.selfplay.keep
        log.warning("%s: no weights of iteration %s (selfplay.keep=%s)", run.name, numbers, keep)
    return {out.t: run.weights(out) for out in outs}


def _row(
    run: str, key: str, policy: int | str, scores: Sequence[Score], base: Sequence[Score]
) -> Row:
    """A line of out=. The ends of an interval are NaN for a single response."""
    of, num_tokens = evaluation.of_scores(scores), [row["num_tokens"] for row in scores]
    low, high = interval("logp_per_token", **of["logp_per_token"])
    differences = [row["logp"] - before["logp"] for row, before in zip(scores, base, strict=True)]
    over = per_token(np.array([differences]), np.array(num_tokens, dtype=float))
    assert over is not None
    return {
        "run": run,
        "key": key,
        "iteration": policy,
        "n": len(scores),
        "tokens": sum(num_tokens),
        "logp": of["logp"]["value"],
        "logp_per_token": of["logp_per_token"]["value"],
        "logp_per_token_low": low,
        "logp_per_token_high": high,
        "perplexity": of["perplexity"]["value"],
        "difference": over.mean,
        "difference_low": over.low,
        "difference_high": over.high,
    }


def _text(run: str, data: str, rows: Sequence[Row]) -> str:
    """A table of the run's policies, and in a sentence what the last one lost or gained."""
    cells = [
        {
            "iteration": row["iteration"],
            "pairs": row["n"],
            "log pi(y)_a response": row["logp"],
            "log pi(y)_a token": _interval(row, "logp_per_token"),
            "perplexity": row["perplexity"],
            "difference_a token": _interval(row, "difference", "+"),
        }
        for row in rows
    ]
    cells[0]["difference_a token"] = None  # of base
    start, end = (f"{row['logp_per_token']:.3f}" for row in (rows[0], rows[-1]))
    return (
        f"{table(run, cells, width=WIDTH)}\n\nlog pi(y) of {data}: {start} to {end} nats a token, "
        f"{_interval(rows[-1], 'difference', '+')} ({BASE} to iteration {rows[-1]['iteration']})\n"
    )


def _interval(row: Row, key: str, sign: str = "") -> str:
    """ "-2.310 [-2.380, -2.240]", the interval where there is one"""
    text, low, high = f"{row[key]:{sign}.3f}", row[f"{key}_low"], row[f"{key}_high"]
    return text if math.isnan(low) else f"{text} [{low:.3f}, {high:.3f}]"
