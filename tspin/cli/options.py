"""Options of a verb, or of a command of analysis: KEY=VALUE. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tspin.cli.folders import program
from tspin.tools.spelling import unknown

BOOLEAN = ("true", "false")
RUNS = ("runs", "runs_dir")  # a folder of runs: as verbs call it, as a run's own option does
MODULE = "python -m tspin"  # as examples have it: it works in a checkout too


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line of a ValueError."""

    def __init__(self, verb: str, arguments: str, *, about: str, examples: str) -> None:
        """arguments: behind the verb in the usage; examples: lines that begin with two spaces"""
        command = f"{program()} {verb}"
        super().__init__(
            prog=command,
            usage=f"{command} {arguments}",
            description=about,
            epilog=f"examples:\n{examples.replace(MODULE, program())}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class KeyParser(Parser):
    """Options alone, each KEY=VALUE; of one that is false unless it is given, --KEY is enough."""

    def __init__(self, verb: str, *, about: str = "", examples: str = "") -> None:
        super().__init__(verb, "KEY=VALUE ...", about=about, examples=examples)
        self._options: dict[str, tuple[str, str | None, Sequence[str]]] = {}

    def option(
        self, key: str, text: str = "", *, default: str | None = None, choices: Sequence[str] = ()
    ) -> None:
        """default: None: it must be given; "": nothing"""
        self._options[key] = text, default, choices
        shown = f"{text} (default: {default})" if default else text
        self.add_argument(key, metavar=f"{key}=VALUE", help=shown)  # for --help alone

    def read(self, arguments: Sequence[str]) -> dict[str, str]:
        """Key -> value. ValueError names the nearest option, and what is missing."""
        if {"--help", "-h"} & {*arguments}:
            self.print_help()
            self.exit()
        values = {key: default for key, (_, default, _) in self._options.items()}
        for argument in arguments:
            key, equals, value = argument.removeprefix("--").partition("=")
            if key in RUNS and RUNS[0] in values:
                key = RUNS[0]
            if key not in values:
                known = [f"{key}=" for key in self._options]
                raise ValueError(unknown(f"option {key}=", f"{key}=", known))
            if not equals and self._options[key][1:] != ("false", BOOLEAN):
                raise ValueError(f"{argument}: write {key}=VALUE")
            values[key] = value if equals else "true"
        given: dict[str, str] = {}
        for key, (text, _, choices) in self._options.items():
            chosen = values[key]
            if chosen is None:
                raise ValueError(f"{key}= is missing: {text}")
            if choices and chosen not in choices:
                raise ValueError(f"{key}={chosen}: {unknown('value', chosen, choices)}")
            given[key] = chosen
        return given


def is_runs(word: str) -> bool:
    """Whether it is runs=RUNS, or as a run has it runs_dir=RUNS, and no folder of that name."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key in RUNS and not Path(word).exists()


def runs_folder(word: str) -> Path:
    """The folder that RUNS or runs=RUNS means."""
    return Path(word.partition("=")[2] if is_runs(word) else word).expanduser()
