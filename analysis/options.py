"""Options of the analysis commands: KEY=VALUE, and --NAME for NAME=true; mistakes in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tspin.cli import outcome
from tspin.cli.folders import by_verb, program
from tspin.cli.options import BOOLEAN, KeyParser

# Commands of analysis -> the verbs of `tspin` that they are, too.
VERBS = {"all": "report", "watch": "watch", "show": "show", "compare": "compare"}


@contextmanager
def command(doc: str | None, arguments: Sequence[str], **defaults: str) -> Iterator[dict[str, str]]:
    """The options of a command; what a user can mend, raised inside, ends in one line.

    doc       what --help prints: the docstring of the command's module, with what was typed
    defaults  every option with its default; "false" makes a switch
    """
    outcome.configure_logging()
    if {"--help", "-h"} & {*arguments}:
        sys.stdout.write(f"{_as_typed(str(doc))}\n")
        sys.exit(0)
    try:
        parser = KeyParser("analysis")
        for key, default in defaults.items():
            parser.option(key, default=default, choices=BOOLEAN if default == "false" else ())
        yield parser.read(arguments)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(outcome.exit_code(error, ["analysis", *arguments]))


def _as_typed(doc: str) -> str:
    """The commands of a docstring by their verbs, where a verb was typed."""
    if by_verb():
        for name, verb in VERBS.items():
            doc = doc.replace(f"python -m analysis {name} ", f"{program()} {verb} ")
    return doc


def named(arguments: Sequence[str], *keys: str) -> list[str]:
    """Folders that are given without a key, as KEY=FOLDER, keys in their order; a folder's name may
    hold an equals sign itself."""
    left, result = list(keys), []
    for argument in arguments:
        key = argument.removeprefix("--").partition("=")[0]
        folder = Path(argument.rpartition(":")[0] or argument).expanduser()
        is_folder = Path(argument).expanduser().is_dir() or folder.is_dir()
        if left and (is_folder or "=" not in argument) and not argument.startswith("-"):
            result.append(f"{left.pop(0)}={argument}")
        else:
            left = [name for name in left if name != key]
            result.append(argument)
    return result
