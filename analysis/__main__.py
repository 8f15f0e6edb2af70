"""python -m analysis COMMAND [KEY=VALUE ...]: what is made from run folders."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from tspin.config.run import unknown

# Modules with a main(arguments); the first line of its docstring is the help.
COMMANDS = {"dashboard": "analysis.wandb.dashboard", "wandb_sync": "analysis.wandb.sync"}


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] == "--help":
        sys.stdout.write(usage())
        return
    name, *rest = arguments
    if name in COMMANDS:
        importlib.import_module(COMMANDS[name]).main(rest)
        return
    from analysis.report import catalogue, report  # pandas and matplotlib: not for the others

    names = (report.ALL, *catalogue.NAMES)
    if name not in names:
        sys.exit(f"error: {unknown(f'command {name}', name, (*COMMANDS, *names))}")
    report.main(name, rest)


def usage() -> str:
    from analysis.report import catalogue, report

    lines = [f"{__doc__}\n", f"  {report.ALL:<12} {_first_line(report)}"]
    lines += [f"  {name:<12} {_first_line(importlib.import_module(module))}"
              for name, module in COMMANDS.items()]  # fmt: skip
    named = ", ".join(catalogue.NAMES)
    return "\n".join([*lines, f"\nOr one of {named}.",
                      "python -m analysis COMMAND --help says more.\n"])  # fmt: skip


def _first_line(module: object) -> str:
    return (module.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    main(sys.argv[1:])
