"""What a person at the terminal sees: progress of a stage, and the table at the end of a run.

Nothing here is a record: the numbers live in the files of the run (see `tracking.StepLog`).
"""

from __future__ import annotations

import logging
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tspin.tools import activity
from tspin.tools.files import flatten

log = logging.getLogger("tspin")
WIDE = 100_000  # characters: wider than any table
LOG_SECONDS = 30.0  # between two lines of a stage in a log
LINE = "{desc}: {n_fmt}/{total_fmt} ({percentage:.1f}%), {rate_fmt}, {remaining} left{postfix}"

# Rich's SIMPLE box in ASCII: a rule below the header, nothing else.
_HEADER_RULE = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
_MARKS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # turn a line around


class Progress(tqdm):
    """A bar of tqdm's, with values beside it; what is done goes to `activity`, too."""

    def update(self, n: float | None = 1, **values: float | str) -> bool | None:
        """n more units are done. values: name=value, shown beside"""
        if values:
            # refresh=False: the bar redraws at its own pace, not once per step
            shown = (f"{name} {_show(value)}" for name, value in values.items())
            self.set_postfix_str(", ".join(shown), refresh=False)
        activity.advance(int(n or 0))
        return super().update(n)


class LogLines(Progress):
    """Without a terminal: a log line every LOG_SECONDS, and one where the stage ends."""

    logged = -1  # units done when a line was last logged

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n != self.logged:
            self.logged = self.n
            log.info("%s", str(self))  # at once: self goes on


@contextmanager
def progress(
    total: int, desc: str, unit: str, *, initial: int = 0, show: bool = True
) -> Iterator[Progress]:
    """Progress of one stage: a bar on a terminal, log lines elsewhere; none of a short stage.

    initial  units done before this process began: they count as done, not towards the rate.
    show     False on every process but the first.
    """
    activity.begin(desc, unit, total=total, initial=initial)
    facts: dict[str, Any] = {"total": total, "desc": desc, "unit": unit, "initial": initial}
    if not show:
        with Progress(**facts, disable=True) as bar:
            yield bar
    elif sys.stderr.isatty():
        # Log lines of the stage go above the bar instead of through it. leave=None: where it stands
        # below the bar of a whole run it goes when it is done.
        with logging_redirect_tqdm(), Progress(**facts, leave=None, dynamic_ncols=True) as bar:
            yield bar
    else:
        pace = {"mininterval": LOG_SECONDS, "delay": LOG_SECONDS, "miniters": 1, "smoothing": 0}
        # disable: TQDM_DISABLE is of bars
        with LogLines(**facts, **pace, disable=False, bar_format=LINE, file=StringIO()) as lines:
            yield lines


def terminal_width() -> int:
    """In characters; without a terminal wider than any table."""
    return shutil.get_terminal_size((WIDE, 24)).columns


def benchmark_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row per task and metric, one column per policy: value +- standard error."""
    names = dict.fromkeys(name for row in rows for name in row.get("benchmarks", {}))
    return [
        {"benchmark": name}
        | {
            f"after_{row['iteration']}": _estimate(row["benchmarks"][name])
            for row in rows
            if name in row.get("benchmarks", {})
        }
        for name in names
    ]


def _estimate(estimate: Mapping[str, float | None]) -> str:
    """Four decimals for what is between 0 and 1; the error where it is known."""
    value, stderr = estimate["value"], estimate["stderr"]
    return f"{value:.4f}" + ("" if stderr is None else f" +- {stderr:.4f}")


def table(
    title: str, rows: Sequence[Mapping[str, Any]], *, first: Sequence[str] = (), width: int = WIDE
) -> str:
    """Rows as plain ASCII text, never cut and never wrapped.

    rows   column -> value. A nested mapping gives one column per entry, and `/` reads as `_`:
           {"seconds": {"train": 2}}, {"seconds/train": 2} and {"seconds_train": 2} are one column.
    first  columns that lead, in this order; the others follow as they appear.
    width  in characters; columns that do not fit follow in blocks below, each block beginning
           with the first column again, without the rows that have nothing there.
    A missing value (absent or None) is "-"; a column missing in every row is left out.
    """
    flat = [
        {name.replace("/", "_"): value for name, value in flatten(row, separator="_").items()}
        for row in rows
    ]
    present = dict.fromkeys(name for row in flat for name in row if row[name] is not None)
    columns = [name for name in first if name in present]
    columns += [name for name in present if name not in first]
    # The group stands above the name: "rewards" above "annotated".
    cells = {
        name: [*name.replace("_", "\n", 1).split("\n"), *(_show(row.get(name)) for row in flat)]
        for name in columns
    }
    blocks = []
    for number, block in enumerate(_blocks(cells, width)):
        filled = [row for row in flat if any(row.get(name) is not None for name in block[1:])]
        blocks.append(_grid(filled if number else flat, block))
    return "\n\n".join([f"{title}\n{blocks[0]}" if blocks else title, *blocks[1:]])


def beside(texts: Mapping[str, str], *, width: int) -> str:
    """Heading -> text, as columns of one width, lines wrapped; wide characters count two."""
    each = (width - 3 * (len(texts) - 1)) // len(texts) - 2
    grid = Table(box=_HEADER_RULE, show_edge=False, pad_edge=False)
    for heading in texts:
        grid.add_column(heading, min_width=each, max_width=each, overflow="fold")
    grid.add_row(*texts.values())
    return _plain(grid, width)


def printable(text: str) -> str:
    """Text of a model or a user as a terminal may see it: nothing that steers it.

    Control characters other than line breaks and tabs, bidirectional marks and lone surrogates
    become U+FFFD.
    """
    return "".join("\ufffd" if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    steers = unicodedata.category(character) in ("Cc", "Cs")
    return character not in "\n\t" and (steers or unicodedata.bidirectional(character) in _MARKS)


def _blocks(cells: Mapping[str, Sequence[str]], width: int) -> list[list[str]]:
    """The columns cut into blocks that fit, the first column in each."""
    widths = {name: max(map(len, column)) + 3 for name, column in cells.items()}  # 3: between
    blocks: list[list[str]] = []
    for name in cells:
        if not blocks:
            blocks.append([name])
        elif sum(widths[column] for column in (*blocks[-1], name)) <= width:
            blocks[-1].append(name)
        else:
            blocks.append([blocks[0][0], name])
    return blocks


def _grid(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    grid = Table(box=_HEADER_RULE, show_edge=False)
    for name in columns:
        is_text = any(isinstance(row.get(name), str) for row in rows)
        header = name.replace("_", "\n", 1)
        grid.add_column(header, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(_show(row.get(name)) for name in columns))
    return _plain(grid, WIDE)  # no table reaches that, and rich cuts what does not fit


def _plain(grid: Table, width: int) -> str:
    """Plain text whatever the surroundings: cells are data, not rich markup."""
    out = StringIO()
    Console(
        file=out,
        width=width,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    ).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def rate_text(rate: float, unit: str) -> str:
    """Units per second, or seconds per unit for what is slower than that."""
    return f"{1 / rate:.3g} s/{unit}" if 0 < rate < 1 else f"{rate:.3g} {unit}/s"


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"


def _show(value: Any) -> str:
    """Four significant digits for a float; a whole number, however large, keeps all of its."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.4g}"
    return str(value)
