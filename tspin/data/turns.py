"""A list of turns -> a system message and rounds, in the forms that people keep conversations in.

Turns are {"role", "content"} as everywhere, or ShareGPT's {"from", "value"}; a content is text, or
a list of parts that are all text.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass

from tspin.data.cells import BadRow, kind, text, text_or_none

Round = tuple[str, str]  # what the user says, what the assistant answers

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
}
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
TEXT_PARTS = ("text", "input_text", "output_text")  # types of the parts of a content


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A system message, if any, and at least one round.

    unused  columns of the row, and "NAME[].KEY" of its turns, that are not null and were not read
    """

    system: str | None
    rounds: tuple[Round, ...]
    unused: tuple[str, ...] = ()


def read(turns: object, name: str, *, first_only: bool) -> Dialogue:
    """The rounds of a list of turns, each a user turn and the assistant turn directly after it.

    An assistant turn before the first user turn (a greeting, or a conversation cut out of a longer
    one) is passed over, and so is a user turn at the end that nobody answers.

    name        of the list, for errors
    first_only  later turns than those of the first round are not read: they may be of any kind
    """
    if not isinstance(turns, list):
        raise BadRow(f"{name} is not a list of turns but {kind(turns)}")
    systems: list[str | None] = []
    rounds: list[Round] = []
    unused: dict[str, None] = {}
    prompt = None
    for number, turn in enumerate(turns, start=1):
        place = f"turn {number} of {name}"
        role, content, others = _turn(turn, place)
        unused |= dict.fromkeys(f"{name}[].{key}" for key in others)
        if prompt is not None and role != "assistant":
            which = f"turn {number - 1}" if rounds else "the first user turn"
            raise BadRow(f"no assistant turn directly after {which} of {name}")
        if role == "user":
            prompt = text(content, f"{place} (user)")
        elif role == "system" and rounds:
            raise BadRow(f"{place} is a system message behind the first round")
        elif role == "system":
            systems.append(text_or_none(content, place))
        elif prompt is not None:
            rounds.append((prompt, text(content, f"{place} (assistant)")))
            prompt = None
            if first_only:
                break
        elif rounds:
            raise BadRow(f"{place} is a second assistant turn in a row")
    if not rounds:
        raise BadRow(f"{name} has no {'user' if prompt is None else 'assistant'} turn")
    return Dialogue("\n\n".join(filter(None, systems)) or None, tuple(rounds), tuple(unused))


def has_user(turns: list[object]) -> bool:
    """Whether a list of turns is a conversation of its own, and not only an answer."""
    return any(isinstance(turn, Mapping) and _role(turn)[1] == "user" for turn in turns)


def _turn(turn: object, place: str) -> tuple[str, object, list[str]]:
    """(role, content, other keys that are not null) of a turn."""
    if not isinstance(turn, Mapping):
        raise BadRow(f"{place} is not an object but {kind(turn)}")
    role_key, role = _role(turn)
    if role is None:
        word = reprlib.repr(turn.get(role_key))
        raise BadRow(f"{place} has {role_key}={word}, which is none of {sorted(ROLES)}")
    content_key = next((key for key in CONTENT_KEYS if turn.get(key) is not None), "content")
    content = _joined(turn.get(content_key), place)
    others = [k for k, v in turn.items() if v is not None and k not in (role_key, content_key)]
    return role, content, others


def _role(turn: Mapping[str, object]) -> tuple[str, str | None]:
    """The key that names the role, and the role; None for a role that is not read."""
    key = next((key for key in ROLE_KEYS if turn.get(key) is not None), "role")
    word = turn.get(key)
    return key, ROLES.get(word.lower()) if isinstance(word, str) else None


def _joined(content: object, place: str) -> object:
    """A content in parts as one text; any other as it is."""
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS:
            part = part.get("text")
        if not isinstance(part, str):
            word = part.get("type") if isinstance(part, Mapping) else kind(part)
            raise BadRow(f"{place} has a part of type {reprlib.repr(word)}; only text is read")
        parts.append(part)
    return "".join(parts)
