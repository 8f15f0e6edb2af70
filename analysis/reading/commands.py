"""Commands to suggest, from the words that runs were started with: so that they run as printed.

A run without its words (made through the Python interface, or by an older version) gets none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tspin.config.shift import WAYS
from tspin.runs import commands

MAIN = ("main.py",)  # of a checkout
# What another method, seed or length of the same setting replaces.
OF_METHOD = (
    *("name", "seed", "loss", "optim.lr", "size", "sweep", "track.tags", "track.group"),
    *(f"data.shift.{key}" for key in WAYS),
)
SIZES = ("sweep=figure4a",)  # over numbers of pairs, which a number that was typed would be all of
OF_SIZE = ("data.size", "experiment")
OF_METHOD_SECTIONS = ("anchor", "coef", "curriculum", "loss.", "coef.", "selfplay.")


def words_of(provenance: Any) -> list[str] | None:
    """The words of a run's last launch, behind what starts one; None where none are recorded.

    provenance  what provenance.json holds
    """
    try:
        parts = commands.split(provenance["launches"][-1]["command"])
    except (TypeError, KeyError, IndexError):
        return None
    return None if parts is None else parts[1]


def run(words: Iterable[str], *more: str) -> str:
    """The command of one run. more: words that replace those of the same key"""
    return commands.shown(_start(), _replaced(words, more))


def of_setting(words: Iterable[str], *more: str) -> str:
    """A multirun on the setting of a run, which other methods and seeds may follow.

    words  of that run: what chooses its model, data and scale is kept
    more   what is run on it: sweep=NAME, loss=..., seed=0,1,2
    """
    kept = [word for word in words if not _is_of_method(key(word)) and not word.startswith("-")]
    if {*SIZES} & {*more}:
        kept = [word for word in kept if key(word) not in OF_SIZE]
    return commands.shown(_start(), ["-m", *_replaced(kept, more)])


def _start() -> tuple[str, ...]:
    """What starts a run where this is read: the command of a checkout, or the installed one."""
    return MAIN if (Path.cwd() / MAIN[0]).exists() else commands.INSTALLED


def key(word: str) -> str:
    """What a word sets: coef.alpha of ++coef.alpha=0.3."""
    return word.lstrip("+").split("=", 1)[0]


def values_of(values: Mapping[str, Any], *keys: str) -> list[str]:
    """Words KEY=VALUE that a run's configuration says."""
    return [f"{name}={values[name]}" for name in keys if values.get(name) is not None]


def _is_of_method(name: str) -> bool:
    return name in OF_METHOD or name.startswith(OF_METHOD_SECTIONS)


def _replaced(words: Iterable[str], more: Sequence[str]) -> list[str]:
    own = {key(word) for word in more}
    return [*(word for word in words if key(word) not in own), *more]
