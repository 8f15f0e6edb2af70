"""Files of runs, each read once. One that cannot be read becomes a problem, a line "FILE: what",
and the rest goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml

from analysis.reading.rows import found, table
from tspin.tools.log import first_line

T = TypeVar("T")


class Files:
    """What was read of each file, and what was wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._contents: dict[tuple[Path, Hashable], Any] = {}

    def problem(self, path: Path, what: str) -> None:
        line = f"{path}: {what}"
        if line not in self.problems:
            self.problems.append(line)

    def once(
        self,
        path: Path,
        read: Callable[[Path], T],
        *,
        optional: bool = False,
        part: Hashable = None,
    ) -> T | None:
        """`read(path)`, kept. None where it fails, and a problem but for an optional file that is
        not there.

        part  which part of the file this is, where it is read in several
        """
        key = (path, part)
        if key not in self._contents:
            self._contents[key] = None
            try:
                self._contents[key] = read(path)
            except FileNotFoundError:
                if not optional:
                    self.problem(path, "is not there; the run is of an older layout")
            except KeyError as error:
                self.problem(path, f"has no {error}; it is of an older layout")
            except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
                self.problem(path, f"cannot be read ({first_line(error)}); left out")
        return self._contents[key]

    def parquet(self, path: Path, columns: Sequence[str], **wanted: Sequence[str]) -> pd.DataFrame:
        """Columns of all rows, or of those with one of the values wanted in every column named;
        empty where there is no file."""

        def read(path: Path) -> pd.DataFrame:
            rows = found(path, columns, **wanted) if wanted else table(path, columns)
            frame = rows.to_pandas()
            for name in columns:
                frame[name]  # KeyError: an older layout
            return frame

        part = (*columns, *((name, *values) for name, values in wanted.items()))
        frame = self.once(path, read, optional=True, part=part)
        return pd.DataFrame(columns=list(columns)) if frame is None else frame

    def json_lines(self, path: Path) -> list[dict[str, Any]]:
        """Every whole line; numbers that are not finite become NaN."""
        rows = []
        decode = json.JSONDecoder(parse_constant=lambda _: math.nan).decode  # one for all lines
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    rows.append(decode(line))
                except ValueError:
                    self.problem(path, f"line {number} is no whole line of JSON; left out")
        return rows
