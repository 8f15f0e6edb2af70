"""python -m analysis COMMAND [KEY=VALUE ...]: what is made from run folders."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from tspin.config import unknown

# Modules of this package with a main(arguments); the first line of its docstring is the help.
COMMANDS = ("accuracy", "dashboard", "wandb_sync")


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] == "--help":
        sys.stdout.write(usage())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        sys.exit(f"error: {unknown(f'command {name}', name, COMMANDS)}")
    importlib.import_module(f"analysis.{name}").main(rest)


def usage() -> str:
    lines = [f"{__doc__}\n"]
    for name in COMMANDS:
        doc = importlib.import_module(f"analysis.{name}").__doc__ or ""
        lines.append(f"  {name:<12} {doc.splitlines()[0]}")
    return "\n".join([*lines, "\npython -m analysis COMMAND --help says more.\n"])


if __name__ == "__main__":
    main(sys.argv[1:])
