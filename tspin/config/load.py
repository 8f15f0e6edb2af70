"""Plain values <-> Run: what is wrong is said in one line, key by key, with what it may be."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from tspin.config import objective, older, rules
from tspin.config.reasons import must_be
from tspin.config.run import Run
from tspin.tools.files import flatten
from tspin.tools.spelling import unknown

_RUN = TypeAdapter(Run)
# pydantic names the branch of a union it tried
_BRANCH = re.compile(r"float|list\[.*\]|constrained-int|literal\[.*\]")


def load(tree: dict[str, Any]) -> Run:
    """A resolved tree of plain values -> Run. ValueError names each key and what it may be.

    A tree of version 0.1.0 is read as today's.
    """
    tree = older.current(tree)
    for key, value in flatten(tree).items():
        if value == "None":  # what a sweep agent or a Python habit writes, and a valid string
            raise ValueError(f"{key}=None is the word None; write {key}=null for no value")
    tree, wrong = _coefficients(tree)
    errors: dict[str, list[ErrorDetails]] = {}
    try:
        run = _RUN.validate_python(tree)
    except ValidationError as error:
        for e in error.errors():
            key = ".".join(_words(e))
            errors.setdefault(key, []).append(e)
    # Of a list with a wrong item the item is named, and not that it is no single value either.
    reasons = wrong | {key: _explain(key, errors[key]) for key in errors}
    reasons = {
        key: reason
        for key, reason in reasons.items()
        if not any(inner.startswith(f"{key}.") for inner in reasons)
    }
    if reasons:
        raise ValueError("; ".join(reasons.values()))
    if (problem := next(rules.problems(run), None)) is not None:
        raise ValueError(problem)
    return run


def dump(run: Run) -> dict[str, Any]:
    """The inverse of load: plain values, by the names a user types."""
    return _RUN.dump_python(run, mode="json", by_alias=True)


@cache
def keys() -> tuple[str, ...]:
    """The dotted key of every field there is, by the names a user types; mappings are one."""
    schema = _RUN.json_schema()
    names: list[str] = []
    todo = [("", schema["properties"])]
    while todo:
        prefix, fields = todo.pop()
        for name, field in fields.items():
            kinds = [kind for kind in field.get("anyOf", [field]) if "$ref" in kind]
            if not kinds:
                names.append(f"{prefix}{name}")
            for kind in kinds:
                section = schema["$defs"][kind["$ref"].rsplit("/", 1)[-1]]
                todo.append((f"{prefix}{name}.", section["properties"]))
    return tuple(sorted(key for key in names if key != "loss.coefficients"))


def _coefficients(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tree with the coefficients of the loss in their types, and {key: what is wrong}."""
    loss, coef = tree.get("loss"), tree.get("coef")
    if not isinstance(loss, dict) or not isinstance(loss.get(objective.TARGET), str):
        return tree, {}
    own = {key: loss[key] for key in ("name", "label", objective.TARGET) if key in loss}
    given = {str(key): value for key, value in loss.items() if key not in own}
    group = coef if isinstance(coef, dict) else {}
    typed, wrong = objective.read(own[objective.TARGET], given, group)
    return {**tree, "loss": own | typed}, wrong


def _words(error: ErrorDetails) -> list[str]:
    """The key of a value, section by section, and its place in a list."""
    return [word for word in map(str, error["loc"]) if not _BRANCH.fullmatch(word)]


def _explain(key: str, errors: list[ErrorDetails]) -> str:
    """errors: of one value, by each kind that it might be"""
    error = errors[0]
    match error["type"]:
        case "unexpected_keyword_argument":
            schema = _RUN.json_schema()
            fields = schema["properties"]
            *sections, word = _words(error)
            for section in sections:
                kinds = fields[section].get("anyOf", [fields[section]])  # a section, or null
                (name,) = (kind["$ref"].rsplit("/", 1)[-1] for kind in kinds if "$ref" in kind)
                fields = schema["$defs"][name]["properties"]
            return unknown(f"key {key}", word, fields)
        case "missing":
            return f"{key} is not set"
        case "value_error" if not key:
            return error["msg"].removeprefix("Value error, ")
        case "value_error":
            return f"{key}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            return must_be(key, errors)
