"""The table of docs/models.md: a row a family, measured.

PYTHONPATH=.:tests OMP_NUM_THREADS=1 python -m support.families.matrix    # writes it anew
"""

import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from support.families import logits, runs, texts
from support.families.folders import FAMILIES, save
from support.families.texts import Apart
from tspin.tools.log import first_line

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
COMMAND = "PYTHONPATH=.:tests OMP_NUM_THREADS=1 python -m support.families.matrix"
HEAD = (
    "family", "what is special of it", "text", "spelt tokens", "sampling", "packing",
    "two iterations", "resume", "LoRA", "export",
)  # fmt: skip


def row(name: str, root: Path) -> str:
    """The family's line of the table. root: an empty folder"""
    family, model = FAMILIES[name], save(name, root / "model")
    cfg = runs.configuration(name, model, root / "runs")
    again = runs.configuration(name, model, root / "again")
    adapted = runs.configuration(name, model, root / "adapted", "lora=default")
    return line(
        [
            family.title,
            family.special,
            cell(texts.template, name, model),
            cell(texts.spelt_tokens, name, model),
            cell(logits.sampling, name, model),
            cell(logits.packing, name, model),
            cell(runs.iterations, cfg),
            cell(runs.resume, cfg, again),
            cell(runs.lora, name, adapted, root / "merged"),
            cell(runs.export, name, cfg, root / "exported"),
        ]
    )


def cell(measure: Callable[..., str], *arguments: Any) -> str:
    """What `measure` says: "yes" and what is to be known of it, or "no" or "error" and why."""
    transformers.utils.logging.disable_progress_bar()
    try:
        return measure(*arguments)
    except Apart as difference:
        return f"no: {difference}"
    except Exception as error:  # whatever a library raises is what a user would see
        # Without the text at its end, which may hold today's date or a temporary folder.
        message = re.sub(r""": ['"].*|/\S*""", "", first_line(error))
        return f"error: {type(error).__name__}: {message}"


def line(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def stored() -> dict[str, str]:
    """The lines that docs/models.md has, by family, in its order."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert lines[:2] == [line(HEAD), rule()], f"another table: {COMMAND}"
    titles = {family.title: name for name, family in FAMILIES.items()}
    by_title = {text.split(" | ")[0].removeprefix("| "): text for text in lines[2:]}
    return {titles.get(title, title): text for title, text in by_title.items()}


def write(rows: Mapping[str, str]) -> None:
    """Puts a new table into docs/models.md."""
    table = "\n".join([line(HEAD), rule(), *rows.values()])
    text = PAGE.read_text(encoding="utf-8")
    text = re.sub(r"^\|.*\|$(\n\|.*\|$)*", lambda _: table, text, count=1, flags=re.M)
    PAGE.write_text(text, encoding="utf-8")


def rule() -> str:
    return "|---" * len(HEAD) + "|"


def main() -> None:
    rows = {}
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row(name, Path(folder))
        sys.stdout.write(f"{rows[name]}\n")
    write(rows)


if __name__ == "__main__":
    main()
