"""One row of annotated data, in any schema people keep such rows in -> (system, prompt, response).

Text is taken as it is: nothing is stripped or normalised.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

SCHEMAS = (
    "messages, conversations, prompt + response, prompt + completion, instruction (+ input) + "
    "output, real (SPIN's own), chosen or prompt + chosen (preference data), prompt + annotated"
)
RESPONSES = ("response", "completion", "chosen", "annotated")  # beside `prompt`; the first counts
# Characters of one text, some hundred times more than a model reads: encoding takes up to 200 bytes
# of memory for each, and so for a row of 100 MB 20 GB.
MAX_TEXT = 1 << 22
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


class BadRow(ValueError):
    """Why one row cannot be used; `read_pairs` adds the file and the line."""


def texts(row: object) -> tuple[str | None, str, str]:
    """(system, prompt, annotated) of a row in any of SCHEMAS, or BadRow.

    Columns that are null count as absent: a table that mixes schemas is filled up with nulls.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, Mapping):
        raise BadRow(f"it is not an object but {_type(row)}")
    row = {name: value for name, value in row.items() if value is not None}
    if "messages" in row or "conversations" in row:  # before prompt: ultrachat has both
        name = "messages" if "messages" in row else "conversations"
        system, prompt, annotated = _first_round(row[name], name)
    elif isinstance(row.get("real"), list):
        # Beside `generated`: samples of a policy that is not ours.
        system, prompt, annotated = _first_round(row["real"], "real")
    elif isinstance(row.get("chosen"), list) and not isinstance(row.get("prompt"), list):
        # A conversation from its beginning; a text as `prompt` repeats its first turn.
        system, prompt, annotated = _first_round(row["chosen"], "chosen")
    elif "prompt" in row and (names := [name for name in RESPONSES if name in row]):
        name = names[0]
        if isinstance(row["prompt"], list) and isinstance(row[name], list):
            system, prompt, annotated = _first_round(row["prompt"] + row[name], f"prompt + {name}")
        else:
            system, prompt = None, _text(row["prompt"], "prompt")
            annotated = _text(row[name], name)
    elif "instruction" in row and "output" in row:
        system, prompt = None, _text(row["instruction"], "instruction")
        if extra := _optional_text(row.get("input"), "input"):
            prompt = f"{prompt}\n\n{extra}"
        annotated = _text(row["output"], "output")
    else:
        raise BadRow(f"unknown schema with columns {reprlib.repr(sorted(row))}; it needs {SCHEMAS}")
    system = system or _optional_text(row.get("system"), "system")
    for name, text in (("system", system), ("prompt", prompt), ("response", annotated)):
        if text is not None and len(text) > MAX_TEXT:
            raise BadRow(f"{name} has {len(text)} characters, more than the {MAX_TEXT} that count")
    return system, prompt, annotated


def _first_round(turns: object, name: str) -> tuple[str | None, str, str]:
    """(system, prompt, annotated): the first user turn and the assistant turn directly after it.

    Only turns up to there are read: later ones may be of any kind. An assistant turn before the
    first user turn (a greeting, or a conversation cut out of a longer one) is passed over.
    """
    if not isinstance(turns, list):
        raise BadRow(f"{name} is not a list of turns but {_type(turns)}")
    systems, prompt = [], None
    for number, turn in enumerate(turns, start=1):
        place = f"turn {number} of {name}"
        role, content = _turn(turn, place)
        if prompt is None and role == "system":
            systems.append(_optional_text(content, place))
        elif prompt is None and role == "user":
            prompt = _text(content, f"{place} (user)")
        elif prompt is not None and role != "assistant":
            raise BadRow(f"no assistant turn directly after the first user turn of {name}")
        elif prompt is not None:
            annotated = _text(content, f"{place} (assistant)")
            return "\n\n".join(filter(None, systems)) or None, prompt, annotated
    raise BadRow(f"{name} has no {'user' if prompt is None else 'assistant'} turn")


def _turn(turn: object, place: str) -> tuple[str, object]:
    """(role, content) of {"role", "content"} or of ShareGPT's {"from", "value"}."""
    if not isinstance(turn, Mapping):
        raise BadRow(f"{place} is not an object but {_type(turn)}")
    role, content = ("from", "value") if "from" in turn else ("role", "content")
    named = turn.get(role)
    if not isinstance(named, str) or named not in ROLES:
        raise BadRow(f"{place} has {role}={reprlib.repr(named)}, which is none of {sorted(ROLES)}")
    return ROLES[named], turn.get(content)


def _text(value: object, name: str) -> str:
    text = _optional_text(value, name)
    if text is None:
        raise BadRow(f"{name} is empty")
    return text


def _optional_text(value: object, name: str) -> str | None:
    """The text unchanged; None where there is none: null, empty or only white space."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRow(f"{name} is not a string but {_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} is not valid Unicode: invalid UTF-8 or half a surrogate") from None
    return value if value.strip() else None


def _type(value: object) -> str:
    return "null" if value is None else type(value).__name__
