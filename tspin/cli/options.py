"""Options of a verb, or of a command of analysis: KEY=VALUE, or --KEY VALUE. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from tspin.tools.spelling import unknown

BOOLEAN = ("true", "false")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line of a ValueError."""

    def __init__(self, verb: str, arguments: str, *, about: str, examples: str) -> None:
        """arguments: behind the verb in the usage; examples: lines that begin with two spaces"""
        command = f"python -m tspin {verb}"
        super().__init__(
            prog=command,
            usage=f"{command} {arguments}",
            description=about,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class KeyParser(Parser):
    """A parser of options alone, each with a name, as KEY=VALUE or --KEY VALUE."""

    def __init__(self, verb: str, *, about: str = "", examples: str = "") -> None:
        about += "\n\nEvery option is written KEY=VALUE or --KEY VALUE."
        super().__init__(verb, "[KEY=VALUE ...]", about=about, examples=examples)
        self._choices: dict[str, Sequence[str]] = {}
        self._required: dict[str, str] = {}  # key -> what it is

    def option(
        self,
        key: str,
        text: str = "",
        *,
        default: str | None = None,
        choices: Sequence[str] = (),
        switch: bool = False,
    ) -> None:
        """default: None: it must be given; "": nothing. switch: --KEY alone is KEY=true"""
        self._choices[key] = BOOLEAN if switch else choices
        if default is None:
            self._required[key] = text
            given = " ".join(f"{name}=..." for name in self._required)
            self.usage = f"{self.prog} {given} [KEY=VALUE ...]"
        shown = f"{text} (default: {default})" if default else text
        self.add_argument(
            f"--{key}",
            nargs="?" if switch else None,
            const="true" if switch else None,
            default=default,
            metavar="VALUE",
            help=shown,
        )

    def read(self, arguments: Sequence[str]) -> dict[str, str]:
        """Key -> value. ValueError names the nearest option, and what is missing."""
        keys = [f"{key}=" for key in self._choices]
        flags = [f"--{argument}" if argument.startswith(tuple(keys)) else argument
                 for argument in arguments]  # fmt: skip
        options, rest = self.parse_known_args(flags)
        for argument in rest:
            key = argument.removeprefix("--").partition("=")[0]
            if key in self._choices:
                raise ValueError(f"{argument}: write {key}=VALUE")
            raise ValueError(unknown(f"option {key}=", f"{key}=", keys))
        values: dict[str, str] = vars(options)
        for key, text in self._required.items():
            if values[key] is None:
                raise ValueError(f"{key}= is missing: {text}")
        for key, choices in self._choices.items():
            if choices and values[key] not in choices:
                raise ValueError(f"{key}={values[key]}: {unknown('value', values[key], choices)}")
        return values
