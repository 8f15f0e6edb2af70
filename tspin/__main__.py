"""python -m tspin VERB ...: what there is beside a run (main.py) and its report (analysis)."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

# verb -> module with a main(arguments) -> exit code, and one line of help
VERBS = {
    "status": ("tspin.status", "how far runs are, and which of them live"),
    "merge": ("tspin.merge", "adapters and their base as one model"),
    "export": ("tspin.export", "a policy as a model for others, with its card"),
    "pairs": ("tspin.pairs", "what a run sampled, as preference data"),
    "chat": ("tspin.chat", "talk to a policy, or to two side by side"),
    "plan": ("tspin.plan", "memory, hours and disk of a run, before anything starts"),
}


def main(arguments: Sequence[str]) -> int:
    """-> exit code"""
    if not arguments or arguments[0] in ("--help", "-h"):
        sys.stdout.write(usage())
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        sys.stderr.write(f"error: unknown verb {verb}{hint} (choices: {', '.join(VERBS)})\n")
        return 2
    code = importlib.import_module(VERBS[verb][0]).main(rest)
    assert isinstance(code, int)
    return code


def usage() -> str:
    lines = [f"  {verb:<10} {line}" for verb, (_, line) in VERBS.items()]
    return "\n".join([f"{__doc__}\n", *lines, "\npython -m tspin VERB --help says more.\n"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
