"""What a value has to be, in our words: of what pydantic says only the kind is read."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import ErrorDetails

# pydantic's names of types -> what a user types
KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "list": "a list",
    "string": "text",
}


def must_be(key: str, errors: Sequence[ErrorDetails]) -> str:
    """The sentence for a value that is of none of its kinds; pydantic's for any other fault.

    errors  of the same value, one for each kind that it might have been
    """
    words = [error for error in errors if error["type"] == "literal_error" and len(errors) > 1]
    others = [error for error in errors if error not in words]
    kinds = []
    for error in others:
        kind, _, fault = error["type"].partition("_")
        if kind not in KINDS or fault not in ("parsing", "type", "from_float"):
            return " or ".join(dict.fromkeys(f"{key}={e['input']!r}: {e['msg']}" for e in others))
        kinds.append(KINDS[kind])
    kinds += [error["ctx"]["expected"].replace("'", "") for error in words]
    return f"{key}={errors[0]['input']!r} must be {' or '.join(dict.fromkeys(kinds))}"
