"""Misspelt words: the nearest match, and the choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, word: str, choices: Iterable[str]) -> str:
    """One sentence for a misspelt word: what it is, the nearest match, the choices."""
    choices = sorted(choices)
    near = nearest(word, choices)
    hint = f"; did you mean {near}?" if near else ""
    return f"unknown {what}{hint} (choices: {', '.join(choices) or 'none'})"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that is most like a word; None where none is."""
    return next(iter(difflib.get_close_matches(word, [*choices], n=1)), None)
