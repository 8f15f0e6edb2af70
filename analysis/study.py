"""The tables, figures and verdicts of a study, and the sections of its page.

    python -m analysis study [of=objectives] [runs=runs/OF] [out=report/OF] [page=PAGE.md]

of= objectives (docs/objectives.md) or smol (docs/paper-at-135m.md). runs= has a folder for each
part, as benchmarks/ leaves them: test, tune, ... Tables and figures are saved as `all` saves them.
page= replaces what stands between the marks of each of these parts in a page, its pictures in a
folder beside that is called as the page is; a part that is not in runs=, or of whose runs nothing
can be said, stays as it stands there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.options import command
from tspin.tools.files import atomic, write_text
from tspin.tools.spelling import unknown

if TYPE_CHECKING:
    from analysis.claims.claims import Claim, Judged
    from analysis.figures.pieces import Piece
    from analysis.reading.runs import Runs

log = logging.getLogger("tspin")
BEGIN, END = "<!-- {}: written by `python -m analysis study` -->", "<!-- end of {} -->"
TEST = "test"  # the part whose runs are judged
LIKELIHOOD = "likelihood.csv"  # beside the parts: python -m tspin likelihood, of their runs
MANY = 4  # parts of a claim, beyond which their table has to do


@dataclass(frozen=True)
class Study:
    """What is asked of a study's runs.

    questions  part -> name in the catalogue -> its question, in the order of the page
    page       where it is written up; its claims are judged
    claims     of other places that are, too, by key
    make       the command that makes it
    """

    questions: Mapping[str, Mapping[str, str]]
    page: str
    make: str
    claims: Sequence[str] = ()

    def asks(self, claim: Claim) -> bool:
        return claim.place == self.page or claim.key in self.claims


STUDIES = {
    "objectives": Study(
        page="docs/objectives.md",
        make="make objectives",
        questions={
            TEST: {
                "rivals": "Which rival?",
                "stress": "And under stress?",
                "anchors": "Which anchor?",
            },
            "curriculum": {"curriculum": "Which prompts?"},
            "drift": {"drift": "And where data shift?"},
            "tune": {"tuning": "What was tuned, on what?"},
        },
    ),
    "smol": Study(
        page="docs/paper-at-135m.md",
        make="make paper-smol",
        questions={
            TEST: {
                "table1": "What does an iteration gain?",
                "table2": "And without the historical advantage?",
                "figure4b": "And with a reference?",
                "comparison": "Which objective ends above which?",
                "figure4a": "How much do more pairs help?",
                "contingency": "Does the reward agree with the likelihood?",
                "figure3": "And how far apart are they?",
                "figure7": "Where do the likelihoods go?",
                "answers": "How long are the answers?",
            },
            "tune": {"tuning": "What was tuned, on what?"},
        },
        claims=("gains", "above_spin", "steady", "history", "quarter", "misaligned",
                "reference_free", "above_sft", "cooling"),
    ),
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    with command(__doc__, arguments, of="objectives", runs="", out="", page="") as options:
        name = options["of"]
        if name not in STUDIES:
            raise ValueError(unknown(f"study of={name}", name, STUDIES))
        runs, out = (options[key] or f"{usual}/{name}"
                     for key, usual in (("runs", "runs"), ("out", "report")))  # fmt: skip
        write(STUDIES[name], Path(runs), Path(out), options["page"] or None)


def write(study: Study, folder: Path, out: Path, page: str | None = None) -> None:
    """Everything that the parts in `folder` can say. ValueError where there is none, or no mark."""
    from analysis.claims import claims  # pandas and matplotlib: not for --help
    from analysis.figures import likelihood, pieces
    from analysis.reading.runs import Runs
    from analysis.report import catalogue, render

    if page is not None:
        _check_marks(study, Path(page))
    parts = {name: Runs.read(folder / name) for name in study.questions if (folder / name).is_dir()}
    if not parts:
        names = ", ".join(study.questions)
        raise ValueError(f"runs={folder} has no folder {names}; `{study.make}` makes them")
    made = {
        part: {question: catalogue.build(runs, [name])
               for name, question in study.questions[part].items()}
        for part, runs in parts.items()
    }  # fmt: skip
    if TEST in parts and (folder / LIKELIHOOD).exists():
        made[TEST]["What is forgotten?"] = likelihood.build(parts[TEST], folder / LIKELIHOOD)
    every = [piece for of_part in made.values() for of in of_part.values() for piece in of]
    judged = []
    if TEST in parts:
        judged = [it for it in claims.judge(parts[TEST]) if study.asks(it.claim)]
        every.append(claims.table(judged))
    images = render.images(every)
    pieces.write(every, images, out)
    problems = list(dict.fromkeys(line for runs in parts.values() for line in runs.problems))
    write_text(out / "problems.txt", "".join(f"{line}\n" for line in problems))
    for line in [*target(judged), *problems]:
        log.info("%s", line)
    log.info("%d tables and figures: %s", len(every), out)
    if page is not None:
        for name, image in images.items():
            with atomic(Path(page).with_suffix("") / f"{name}.png") as path:
                path.write_bytes(image["png"])
        for part, runs in parts.items():
            if not any(_rows(piece) for of in made[part].values() for piece in of):
                continue  # rates that were taken from an earlier study are not in its runs
            lines = [facts(part, runs), "", *(verdicts(judged) if part == TEST else ())]
            _write_section(Path(page), part, [*lines, *section(made[part], Path(page).stem)])


def target(judged: Sequence[Judged]) -> list[str]:
    """Whether an anchor was found that mends T-SPIN in every setting: a sentence, where the study
    asks."""
    from analysis.claims.claims import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED
    from analysis.reading.bench import KINDS

    verdicts = {
        kind: [finding.verdict for it in judged if it.claim.key == f"anchor_{kind}"
               for finding in it.findings]
        for kind in KINDS
    }  # fmt: skip
    if not any(verdicts.values()):
        return []
    reached = [kind for kind, of in verdicts.items() if of and {*of} == {SUPPORTED}]
    if reached:
        result = f"reached with anchor={' and anchor='.join(reached)}"
    elif all(NOT_SUPPORTED in of for of in verdicts.values()):
        result = "missed with every anchor"
    else:
        result = NOT_ENOUGH
    settings = {str(f.regime) for it in judged for f in it.findings if it.claim.of_variants}
    return [f"T-SPIN mended by an anchor, {' and '.join(sorted(settings))}: {result}."]


def _rows(piece: Piece) -> int:
    """Of a table, or of what is drawn."""
    from analysis.figures.pieces import Table

    return len(piece.frame if isinstance(piece, Table) else piece.data)


# --- the sections of a page ----------------------------------------------------------------------


def _marks(part: str) -> tuple[str, str]:
    return BEGIN.format(part), END.format(part)


def _check_marks(study: Study, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in study.questions:
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
    lines = ["### Verdicts", ""]
    lines += [line for sentence in target(judged) for line in (sentence, "")]
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
