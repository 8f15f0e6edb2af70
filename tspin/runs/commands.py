"""How a run was started, as its record keeps it, and how that is shown to be typed again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

INSTALLED = ("-m", "tspin", "run")  # behind `python`: what the command tspin run records


def split(command: Sequence[str]) -> tuple[tuple[str, ...], list[str]] | None:
    """(what starts a run behind `python`, the words typed after it); None where it starts none.

    Example: ["main.py", "loss=spin"] -> (("main.py",), ["loss=spin"])
    """
    words = list(map(str, command))
    if tuple(words[:3]) == INSTALLED:
        return INSTALLED, words[3:]
    if words and Path(words[0]).suffix == ".py":
        return (words[0],), words[1:]
    return None


def shown(start: Sequence[str], words: Iterable[str]) -> str:
    """The command as it is typed."""
    program = ["tspin", "run"] if tuple(start) == INSTALLED else ["python", *start]
    return shlex.join([*program, *words])
