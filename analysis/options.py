"""Options of the analysis commands: KEY=VALUE, and --NAME for NAME=true; mistakes in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tspin.tools.spelling import unknown


@contextmanager
def command(doc: str | None, arguments: Sequence[str], **defaults: str) -> Iterator[dict[str, str]]:
    """The options of a command; what a user can mend, raised inside, ends in one line.

    doc       what --help prints: the docstring of the command's module
    defaults  every option with its default; "false" makes a switch
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tspin").setLevel(logging.INFO)
    if "--help" in arguments:
        sys.stdout.write(f"{doc}\n")
        sys.exit(0)
    try:
        yield read(arguments, defaults)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def read(arguments: Sequence[str], defaults: dict[str, str]) -> dict[str, str]:
    """The defaults with what is given in their place. ValueError names the nearest option."""
    options = dict(defaults)
    for argument in arguments:
        key, sign, value = argument.removeprefix("--").partition("=")
        if key not in defaults:
            raise ValueError(unknown(f"option {key}=", f"{key}=", [f"{k}=" for k in defaults]))
        is_switch = defaults[key] == "false"
        if not sign and not is_switch:
            raise ValueError(f"{argument}: write {key}=VALUE")
        if is_switch and sign and value not in ("true", "false"):
            raise ValueError(f"{argument}: write --{key}, or nothing")
        options[key] = value if sign else "true"
    return options
