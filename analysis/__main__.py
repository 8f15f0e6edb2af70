"""python -m analysis COMMAND [KEY=VALUE ...]: what is made from run folders."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from tspin.cli import outcome
from tspin.tools.spelling import unknown

# command -> module with a main(arguments); the first line of its docstring is the help
COMMANDS = {
    "watch": "analysis.watch",
    "show": "analysis.show",
    "compare": "analysis.compare",
    "choose": "analysis.choose",
    "study": "analysis.study",
    "dashboard": "analysis.wandb.dashboard",
    "wandb_sync": "analysis.wandb.sync",
    "tracker_sync": "analysis.wandb.local_sync",
}


def main(arguments: Sequence[str]) -> None:
    try:
        _main(arguments)
    except (ImportError, KeyboardInterrupt) as error:  # while libraries are imported, too
        sys.exit(outcome.exit_code(error))


def _main(arguments: Sequence[str]) -> None:
    name, *rest = arguments or ["--help"]
    if name == "--help":
        sys.stdout.write(usage())
        return
    if name in COMMANDS:
        importlib.import_module(COMMANDS[name]).main(rest)
        return
    from analysis.report import catalogue, report  # pandas and matplotlib: not for the others

    names = (report.ALL, *catalogue.NAMES)
    if name not in names:
        mistake = ValueError(unknown(f"command {name}", name, (*COMMANDS, *names)))
        sys.exit(outcome.exit_code(mistake))
    report.main(name, rest)


def usage() -> str:
    from analysis.report import catalogue, report

    commands = {report.ALL: report.__name__} | COMMANDS
    docs = {name: str(importlib.import_module(commands[name]).__doc__) for name in commands}
    lines = "".join(f"  {name:<12} {doc.splitlines()[0]}\n" for name, doc in docs.items())
    figures = f"Or one of {', '.join(catalogue.NAMES)}."
    return f"{__doc__}\n\n{lines}\n{figures}\npython -m analysis COMMAND --help says more.\n"


if __name__ == "__main__":
    main(sys.argv[1:])
