"""How a run ends on the console: a table of 100 columns, one sentence, commands for what is next.

All the numbers are in the files of the run; report.results has them as rows.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tspin.objectives.contingency import CELLS
from tspin.runs import commands, comparison
from tspin.runs.artifacts import Iteration, RunDir
from tspin.tools.files import read_json
from tspin.tools.terminal import benchmark_rows, table

TITLE = "Iterations (log pi, margin and misaligned: of the training rows)"
WIDTH = 100  # characters of the table, in a terminal and in a pipe
BASE = "base"
ITERATIONS = "selfplay.iterations"


def text(folder: RunDir, rows: Sequence[Mapping[str, Any]], *, alone: bool = True) -> str:
    """What is written at the end of a run.

    rows   of report.results
    alone  False for a point of a multirun, which has an end of its own
    """
    parts = [end_table(folder, rows), sentence(folder, rows)]
    if line := saved(rows):
        parts.append(line)
    if benchmarks := benchmark_rows(rows):
        parts.insert(1, table("Benchmarks", benchmarks, width=WIDTH))
    if alone and (lines := next_commands(folder)):
        parts.append("what comes next:\n" + "\n".join(f"  {line}" for line in lines))
    return "\n\n".join(parts)


def end_table(folder: RunDir, rows: Sequence[Mapping[str, Any]]) -> str:
    """One row per policy, the initial one as `base`; columns that no row has are left out.

    accuracy, perplexity  of held-out prompts, whichever is the main number, with its 95% interval
    current, past         accuracy on held-out rows of the iteration's time and of those before,
                          where rows have a time
    average               of the benchmarks +- its standard error
    log pi(y), log pi(y') means over the training rows after the update, nats
    margin                reward(y) - reward(y'), likewise
    misaligned            share of training rows that reward and log-likelihood order differently
    chosen                share of the training prompts, by a curriculum
    minutes               of the iteration's stages
    """
    return table(TITLE, [_row(folder, row) for row in rows], width=WIDTH)


def sentence(folder: RunDir, rows: Sequence[Mapping[str, Any]]) -> str:
    """From the first policy that was evaluated to the last: "accuracy 42.0% to 52.8%, ..."."""
    evaluated = [(row["iteration"], _out(folder, row)) for row in rows]
    evaluated = [(name, out) for name, out in evaluated if comparison.worth(out) is not None]
    if not evaluated:
        return (
            "no held-out number: data.heldout=N holds prompts out, which say what a policy gained"
        )
    last_name, last = evaluated[-1]
    now = comparison.worth(last)
    assert now is not None
    earlier = [(name, out) for name, out in evaluated[:-1] if comparison.worth(out, now.metric)]
    if not earlier:
        return f"held-out {now.name}: {now} ({_when(last_name)})"
    first_name, first = earlier[0]
    change = comparison.change(first, last, now.metric)
    assert change is not None
    when = f"{_when(first_name)} to {_when(last_name)}"
    return f"held-out {now.name}: {change.numbers} ({when})"


def saved(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What a curriculum has saved, over the iterations that it chose in; None without one."""
    keys = ("curriculum_tokens_sampled", "curriculum_tokens_kept")
    sampled, kept = (sum(row.get(key, 0) for row in rows) for key in keys)
    if not sampled:
        return None
    return (
        f"curriculum: {sampled:.0f} tokens of y' sampled where all prompts had taken about "
        f"{sampled + kept:.0f} ({kept / (sampled + kept):.1%} saved)"
    )


def next_commands(folder: RunDir) -> list[str]:
    """The report, a talk with the policy, more iterations of the same run."""
    run = shlex.quote(str(folder.path))
    lines = [
        f"python -m analysis all runs={shlex.quote(str(folder.path.parent))} out=report",
        f"python -m tspin chat run={run} against={BASE}",
    ]
    longer = _longer(folder)
    return lines if longer is None else [*lines, longer]


def _row(folder: RunDir, row: Mapping[str, Any]) -> dict[str, Any]:
    out = _out(folder, row)
    cells: dict[str, Any] = {"iteration": row["iteration"]}
    worth = comparison.worth(out)
    if worth is not None:
        cells[worth.name] = str(worth)
    for period in ("current", "past"):
        if (accuracy := row.get(f"accuracy_{period}")) is not None:
            cells[period] = f"{accuracy:.1%}"
    if "average" in row:
        stderr = row["benchmarks"]["average"]["stderr"]
        cells["average"] = f"{row['average']:.4f}" + ("" if stderr is None else f" +- {stderr:.4f}")
    y, synthetic = row.get("logps_annotated"), row.get("logps_synthetic")
    cells |= {"log pi(y)": y, "log pi(y')": synthetic, "margin": _margin(row)}
    num_rows = sum(row.get(cell, 0) for cell in CELLS)
    if num_rows:
        cells["misaligned"] = f"{(row['reward_only'] + row['logp_only']) / num_rows:.1%}"
    if "curriculum_share_chosen" in row:
        cells["chosen"] = f"{row['curriculum_share_chosen']:.1%}"
    seconds = [value for key, value in row.items() if key.startswith("seconds_")]
    cells["minutes"] = round(sum(seconds) / 60, 2) if seconds else None
    return cells


def _margin(row: Mapping[str, Any]) -> float | None:
    y, synthetic = row.get("rewards_annotated"), row.get("rewards_synthetic")
    return None if y is None or synthetic is None else y - synthetic


def _out(folder: RunDir, row: Mapping[str, Any]) -> Iteration:
    return folder.base if row["iteration"] == BASE else folder.iteration(row["iteration"])


def _when(name: str | int) -> str:
    return BASE if name == BASE else f"iteration {name}"


def _longer(folder: RunDir) -> str | None:
    """The command of the last launch with twice the iterations, by which this very run goes on.

    None where it was none of the command line's, and where the data may not last.
    """
    if not folder.provenance.exists():
        return None
    launch = read_json(folder.provenance)["launches"][-1]
    parts = commands.split(launch["command"])
    if parts is None:
        return None
    start, words = parts
    shift = launch["config"].get("data", {}).get("shift", {})  # a section that came later
    if shift.get("column") or shift.get("parts"):
        return None
    more = 2 * launch["config"]["selfplay"]["iterations"]
    kept = [word for word in words if not word.startswith((f"{ITERATIONS}=", "name="))]
    return commands.shown(start, [*kept, f"name={folder.path.name}", f"{ITERATIONS}={more}"])
