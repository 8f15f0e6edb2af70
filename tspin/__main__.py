"""python -m tspin VERB ...: what there is beside a run (main.py) and its report (analysis)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from tspin import __version__
from tspin.cli import outcome
from tspin.tools.spelling import unknown

# verb -> module with a main(arguments), and one line of help
VERBS = {
    "plan": ("tspin.cli.plan", "memory, hours and disk of a run, before anything starts"),
    "status": ("tspin.cli.status", "how far runs are, and which of them live"),
    "chat": ("tspin.cli.chat", "talk to a policy, or to two side by side"),
    "export": ("tspin.export.checkpoint", "a policy as a model for others, with its card"),
    "pairs": ("tspin.export.pairs", "an iteration's training data, as preferences and triplets"),
}
USAGE = """usage: python -m tspin VERB ...

What there is beside a run (python main.py) and its report (python -m analysis):

{verbs}

python -m tspin VERB --help says more, --version which version this is.
"""


def main(arguments: Sequence[str]) -> int:
    """-> exit code"""
    if not arguments or arguments[0] in ("--help", "-h"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"tspin {__version__}\n")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        sys.stderr.write(f"error: {unknown(f'verb {verb}', verb, VERBS)}\n")
        return 2
    outcome.configure_logging()
    try:
        importlib.import_module(VERBS[verb][0]).main(rest)
    except (Exception, KeyboardInterrupt) as error:
        return outcome.exit_code(error, arguments)
    except SystemExit as end:  # --help of argparse
        return int(end.code or 0)
    return 0


def usage() -> str:
    return USAGE.format(verbs="\n".join(f"  {verb:<8} {line}" for verb, (_, line) in VERBS.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
