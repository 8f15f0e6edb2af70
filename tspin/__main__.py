"""tspin VERB ..., or python -m tspin VERB ...: all there is, a line in one table each."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tspin import __version__
from tspin.cli import outcome
from tspin.cli.folders import program
from tspin.tools.spelling import unknown


class Verb(NamedTuple):
    """module: has a main(arguments); words: of it, before those that are typed"""

    module: str
    help: str
    words: tuple[str, ...] = ()


VERBS = {
    "run": Verb("tspin.cli.run", "a run, or many (-m): GROUP=OPTION KEY=VALUE ..., as main.py"),
    "plan": Verb("tspin.cli.plan", "memory, hours and disk of a run, before anything starts"),
    "status": Verb("tspin.cli.status", "how far runs are, and which of them live"),
    "ls": Verb("tspin.cli.run_folders", "the runs in a folder, a line each", ("ls",)),
    "rm": Verb("tspin.cli.run_folders", "runs taken away, and what only they had", ("rm",)),
    "watch": Verb("analysis.watch", "a page of runs while they go on, for this machine alone"),
    "show": Verb("analysis.show", "the numbers of one run"),
    "compare": Verb("analysis.compare", "two runs, or two iterations, side by side"),
    "report": Verb("analysis.__main__", "tables, figures and a page of what runs found", ("all",)),
    "chat": Verb("tspin.cli.chat", "talk to a policy, or to two side by side"),
    "likelihood": Verb("tspin.cli.likelihood", "what a training forgot: log pi(y) of other pairs"),
    "export": Verb("tspin.export.checkpoint", "a policy as a model for others, with its card"),
    "pairs": Verb(
        "tspin.export.pairs", "an iteration's training data, as preferences and triplets"
    ),
    "completion": Verb("tspin.cli.completion", "what makes a shell complete verbs and overrides"),
}
USAGE = """usage: {program} VERB ...

{verbs}

{program} VERB --help says more, --version which version this is.
"""


def main(arguments: Sequence[str]) -> int:
    """-> exit code"""
    if not arguments or arguments[0] in ("--help", "-h"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"tspin {__version__}\n")
        return 0
    name, *rest = arguments
    if name not in VERBS:
        sys.stderr.write(f"error: {unknown(f'verb {name}', name, VERBS)}\n")
        return 2
    outcome.configure_logging()
    verb = VERBS[name]
    try:
        importlib.import_module(verb.module).main([*verb.words, *rest])
        sys.stdout.flush()  # or Python does so at its end, where a reader that left is no error
    except (Exception, KeyboardInterrupt) as error:
        return outcome.exit_code(error, arguments)
    except SystemExit as end:  # --help of argparse
        return int(end.code or 0)
    return 0


def command() -> int:
    """The console script."""
    return main(sys.argv[1:])


def usage() -> str:
    verbs = "\n".join(f"  {name:<11} {verb.help}" for name, verb in VERBS.items())
    return USAGE.format(program=program(), verbs=verbs)


if __name__ == "__main__":
    sys.exit(command())
