"""Values that are text, taken as they are typed: quoted where Hydra's grammar reads another thing.

A path may hold =, blanks, brackets, #, &, commas, quotes or letters beyond ASCII, and the names
of our own runs hold =. Which keys hold text, and which of them a path, the typed configuration
says.
"""

from __future__ import annotations

import os
import re
import shlex
import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from tspin.cli.arguments import ARGUMENTS
from tspin.config.run import PLACE, Run
from tspin.runs.point import key
from tspin.tools.log import first_line

NOTHING = ("", "null")
PLAIN = re.compile(r"[A-Za-z0-9_./+@%~-]+")  # without what the grammar may read as more
EXPRESSION = re.compile(r"""["'(\[{]""")  # in what the grammar takes, commas may be part of these


def as_typed(override: str, *, multirun: bool) -> str:
    """KEY=VALUE as Hydra has to be given it, to mean VALUE where KEY holds text.

    Alternatives of a multirun (A,B) and interpolations (${KEY}) stay what they are, unless a path
    of that name exists. What is set in a mapping for a library is added to it.
    ValueError shows the quoted word for what the grammar does not know.
    """
    name, value = override.split("=", 1)
    if key(override) in text_keys():
        return f"{name}={_text(key(override), value, multirun=multirun)}"
    if not name.startswith("hydra"):
        try:
            _parsed(override)
        except HydraException as error:
            reason = first_line(error)
            raise ValueError(
                f"{override} cannot be read ({reason}); text is quoted: {quoted_word(override)}"
            ) from None
    if key(override).startswith(ARGUMENTS) and not override.startswith("+"):
        return f"++{override}"  # Hydra takes a key for new that its mapping does not have yet
    return override


def quoted_word(override: str) -> str:
    """KEY="VALUE" as it is typed in a shell."""
    name, value = override.split("=", 1)
    return shlex.quote(f"{name}={_quoted(value)}")


@cache
def text_keys() -> dict[str, bool]:
    """Dotted key of each field that is a string -> whether it names a path."""
    return dict(_text_fields(Run, ""))


def _text_fields(section: type, prefix: str) -> Iterator[tuple[str, bool]]:
    for name, hint in get_type_hints(section, include_extras=True).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        if len(kinds) != 1:
            continue
        kind, notes = kinds[0], ()
        if get_origin(kind) is Annotated:
            kind, notes = get_args(kind)[0], get_args(kind)[1:]
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _text_fields(kind, f"{prefix}{name}.")
        elif kind is str:
            yield f"{prefix}{name}", PLACE in notes


def _text(name: str, value: str, *, multirun: bool) -> str:
    if value in NOTHING:
        return value
    is_path, parts = text_keys()[name], value.split(",")
    if is_path and _exists(value):
        return value if _is_plain(name, value) else _quoted(value.replace("${", "\\${"))
    if multirun and len(parts) > 1:
        if (is_path and all(map(_exists, parts))) or not EXPRESSION.search(value):
            return ",".join(_text(name, part, multirun=False) for part in parts)
    try:
        override = _parsed(f"{name}={value}")
    except HydraException:
        if multirun and len(parts) > 1:
            word = quoted_word(f"{name}={value}")
            raise ValueError(
                f"{name}={value} cannot be read; quote each value of a sweep, or all of one that "
                f"has commas: {word}"
            ) from None
        return _quoted(value)
    if override.is_sweep_override() or _is_meant(value, override.value()):
        return value
    return _quoted(value)


def _is_plain(name: str, value: str) -> bool:
    """Whether the grammar reads exactly this text without quotes: of most paths it does."""
    if not PLAIN.fullmatch(value):
        return False
    try:
        read = _parsed(f"{name}={value}")
    except HydraException:
        return False
    return not read.is_sweep_override() and read.value() == value


def _exists(path: str) -> bool:
    return os.path.lexists(os.path.expanduser(path))


def _is_meant(value: str, parsed: Any) -> bool:
    """Whether what the grammar reads is the text, quoted or not, or made by a function of it."""
    return isinstance(parsed, str) and (parsed == value or bool(EXPRESSION.search(value)))


def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _quoted(value: str) -> str:
    return QuotedString(value, Quote.double).with_quotes()
