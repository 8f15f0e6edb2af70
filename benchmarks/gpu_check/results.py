"""Outcomes of checks, and the files that hold them: results.json and table.md. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.common import row
from tspin.tools.files import write_json, write_text

Figure = float | int | str | None
Status = Literal["pass", "fail", "skipped"]
LEGEND = """Every line is one claim about this machine. `pass`: it holds; `fail`: it does not, or
the check broke, ran out of its seconds or lost its process; `skipped`: it could not be tried, for
the reason in the last column. What each line means is in docs/gpu.md. A goal is a figure to compare
with: a line that misses one still passes, and says so."""
TINY = """**Tiny shapes on the CPU: this shows that the checks run, and nothing about a card.**"""


class Skip(Exception):
    """A check, or the rest of one, cannot be tried here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What came out of a part of a check.

    name     of the part, unique within its check
    figures  name -> value, units in the name
    reason   why it failed or was skipped; a goal that was missed
    details  lines for below the table
    """

    name: str
    status: Status
    figures: Mapping[str, Figure] = field(default_factory=dict)
    reason: str = ""
    details: Sequence[str] = ()

    @property
    def in_words(self) -> str:
        """The figures in words."""
        return ", ".join(f"{name} {_short(value)}" for name, value in self.figures.items())


@dataclass(frozen=True)
class Line:
    """An outcome with the check it is of and the seconds it took."""

    check: str
    outcome: Outcome
    seconds: float


def verdict(
    name: str,
    holds: bool,
    figures: Mapping[str, Figure],
    *,
    rule: str,
    details: Sequence[str] = (),
) -> Outcome:
    """pass where it holds, else fail. rule: what should have held, said only of a failure"""
    reason = "" if holds else rule
    return Outcome(name, "pass" if holds else "fail", figures, reason, details)


def measured(
    name: str, figures: Mapping[str, Figure], *, missed: str = "", details: Sequence[str] = ()
) -> Outcome:
    """Figures that nothing hangs on. missed: a goal that they miss, in words"""
    return Outcome(name, "pass", figures, missed, details)


class Report:
    """The lines so far, on the disk after each."""

    def __init__(self, folder: Path, *, tiny: bool, command: str) -> None:
        self.folder, self.tiny, self.command = folder, tiny, command
        self.lines: list[Line] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.write()  # nothing of an earlier call is left to be read

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self.write()

    def write(self) -> None:
        facts = {"command": self.command, "tiny": self.tiny, "counts": self.counts}
        lines = [
            {"check": line.check, **asdict(line.outcome), "seconds": round(line.seconds, 2)}
            for line in self.lines
        ]
        write_json(self.folder / "results.json", {**facts, "lines": lines})
        write_text(self.folder / "table.md", self.page())

    @property
    def counts(self) -> dict[str, int]:
        statuses = [line.outcome.status for line in self.lines]
        return {status: statuses.count(status) for status in ("pass", "fail", "skipped")}

    def page(self) -> str:
        heads = ("check", "what", "result", "seconds", "figures", "why")
        rows = [row(heads), row(["---"] * len(heads)), *map(_cells, self.lines)]
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        notes = [TINY, ""] if self.tiny else []
        parts = ["# GPU check", "", *notes, f"`{self.command}`: {counts}", "", LEGEND, "", *rows]
        for line in self.lines:
            if line.outcome.details:
                parts += ["", f"## {line.check}: {line.outcome.name}", ""]
                parts += [f"- {detail}" for detail in line.outcome.details]
        return "\n".join(parts) + "\n"


def _cells(line: Line) -> str:
    outcome = line.outcome
    cells = (line.check, outcome.name, outcome.status, f"{line.seconds:.1f}", outcome.in_words)
    return row(str(cell).replace("|", "/").replace("\n", " ") for cell in (*cells, outcome.reason))


def _short(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
