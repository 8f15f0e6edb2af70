"""The bench of objectives: its tables, figures and verdicts, and sections of a page.

    python -m analysis bench [runs=runs/objectives] [out=report/objectives] [page=PAGE.md]

runs= has a folder for each part of the study, as benchmarks/objectives.py leaves them: tune, test,
curriculum, drift. Tables and figures are saved as `all` saves them. page= replaces what stands
between the marks of each of these parts in a page (docs/objectives.md), its pictures in a folder
beside that is called as the page is; a part that is not in runs= stays as it stands there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.options import command
from tspin.tools.files import atomic, write_text

if TYPE_CHECKING:
    from analysis.claims.claims import Judged
    from analysis.figures.pieces import Piece
    from analysis.reading.runs import Runs

log = logging.getLogger("tspin")
BEGIN, END = "<!-- {}: written by `python -m analysis bench` -->", "<!-- end of {} -->"
# What is read from which folder, in the order of the page: name in the catalogue -> its question.
QUESTIONS = {
    "test": {"rivals": "Which rival?", "stress": "And under stress?", "anchors": "Which anchor?"},
    "curriculum": {"curriculum": "Which prompts?"},
    "drift": {"drift": "And where data shift?"},
    "tune": {"tuning": "What was tuned, on what?"},
}
MANY = 4  # parts of a claim, beyond which their table has to do


def main(arguments: Sequence[str]) -> None:
    usual = {"runs": "runs/objectives", "out": "report/objectives", "page": ""}
    with command(__doc__, arguments, **usual) as options:
        write(Path(options["runs"]), Path(options["out"]), options["page"] or None)


def write(folder: Path, out: Path, page: str | None = None) -> None:
    """Everything that the parts in `folder` can say. ValueError where there is none, or no mark."""
    from analysis.claims import claims  # pandas and matplotlib: not for --help
    from analysis.figures import pieces
    from analysis.reading.runs import Runs
    from analysis.report import catalogue, render

    if page is not None:
        _check_marks(Path(page))
    parts = {name: Runs.read(folder / name) for name in QUESTIONS if (folder / name).is_dir()}
    if not parts:
        names = ", ".join(QUESTIONS)
        raise ValueError(f"runs={folder} has no folder {names}; `make objectives` makes them")
    made = {
        part: {question: catalogue.build(runs, [name])
               for name, question in QUESTIONS[part].items()}
        for part, runs in parts.items()
    }  # fmt: skip
    every = [piece for of_part in made.values() for of in of_part.values() for piece in of]
    judged = []
    if "test" in parts:
        judged = [it for it in claims.judge(parts["test"]) if it.claim.place == claims.HERE]
        every.append(claims.table(judged))
        log.info("%s", target(judged))
    images = render.images(every)
    pieces.write(every, images, out)
    problems = list(dict.fromkeys(line for runs in parts.values() for line in runs.problems))
    write_text(out / "problems.txt", "".join(f"{line}\n" for line in problems))
    for line in problems:
        log.info("%s", line)
    log.info("%d tables and figures: %s", len(every), out)
    if page is not None:
        for name, image in images.items():
            with atomic(Path(page).with_suffix("") / f"{name}.png") as path:
                path.write_bytes(image["png"])
        for part, runs in parts.items():
            lines = [facts(part, runs), "", *(verdicts(judged) if part == "test" else ())]
            _write_section(Path(page), part, [*lines, *section(made[part], Path(page).stem)])


def target(judged: Sequence[Judged]) -> str:
    """Whether an anchor was found that mends T-SPIN in every setting, in a sentence."""
    from analysis.claims.claims import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED
    from analysis.reading.bench import KINDS

    verdicts = {
        kind: [finding.verdict for it in judged if it.claim.key == f"anchor_{kind}"
               for finding in it.findings]
        for kind in KINDS
    }  # fmt: skip
    reached = [kind for kind, of in verdicts.items() if of and {*of} == {SUPPORTED}]
    if reached:
        result = f"reached with anchor={' and anchor='.join(reached)}"
    elif all(NOT_SUPPORTED in of for of in verdicts.values()):
        result = "missed with every anchor"
    else:
        result = NOT_ENOUGH
    settings = {str(f.regime) for it in judged for f in it.findings if it.claim.of_variants}
    return f"T-SPIN mended by an anchor, {' and '.join(sorted(settings))}: {result}."


# --- the sections of a page ----------------------------------------------------------------------


def _marks(part: str) -> tuple[str, str]:
    return BEGIN.format(part), END.format(part)


def _check_marks(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in QUESTIONS:
        begin, end = _marks(part)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"page={page} needs the lines {begin} and {end} once each")


def _write_section(page: Path, part: str, lines: Sequence[str]) -> None:
    begin, end = _marks(part)
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    write_text(page, "\n".join([before + begin, "", *lines, end]) + rest.partition(end)[2])


def verdicts(judged: Sequence[Judged]) -> list[str]:
    """Lines of Markdown: the target in a sentence, every claim with its evidence."""
    from analysis.claims.claims import NOT_SUPPORTED, SUPPORTED

    words = {SUPPORTED: "**reached**", NOT_SUPPORTED: "missed"}
    lines = ["### Verdicts", "", target(judged), ""]
    lines += ["| | where | verdict | evidence |", "|---|---|---|---|"]
    for it in judged:
        for finding in it.findings:
            verdict = words.get(finding.verdict, finding.verdict)
            evidence = "<br>".join(map(str, finding.parts))
            if len(finding.parts) > MANY:
                held = sum(part.holds is True for part in finding.parts)
                evidence = f"{held} of {len(finding.parts)} hold"
            lines.append(f"| {it.claim.statement} | {finding.regime} | {verdict} | {evidence} |")
    return [*lines, ""]


def section(made: Mapping[str, Sequence[Piece]], folder: str) -> list[str]:
    """Lines of Markdown: every question with its tables and figures.

    folder  of the pictures, as the page says it
    """
    from analysis.figures.pieces import Drawing, markdown

    lines = []
    for question, pieces in made.items():
        lines += [f"### {question}", ""]
        for piece in pieces:
            if isinstance(piece, Drawing):
                lines += [f"![{question} {piece.name}]({folder}/{piece.name}.png)", ""]
            else:
                lines.append(markdown(replace(piece, missing=())))  # the report has that
    return lines


def facts(name: str, runs: Runs) -> str:
    """A line about the runs of a part: how many, on what, with which seeds."""

    def each(key: str) -> str:
        values = {run.values.get(key) for run in runs}
        return _listed(sorted(value for value in values if value is not None))

    iterations = _listed(sorted({run.iterations for run in runs}))
    split = _listed(sorted({run.setting.split for run in runs}))
    return (
        f"`{name}`: {len(runs)} runs of {iterations} iterations on {each('data.size')} pairs, "
        f"judged on {each('data.heldout')} {split} prompts, seeds {each('seed')}."
    )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
