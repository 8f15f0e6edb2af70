"""The objective that a configuration names: its class, and what its coefficients may be.

conf/loss/NAME.yaml says `_target_: MODULE.CLASS` and a value for each field of the class. The class
may be anybody's: of an installed package, or of a module in the working directory. No torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tspin import objectives
from tspin.config.auto import AUTO
from tspin.config.reasons import must_be
from tspin.config.schedules import values
from tspin.objectives.objective import Objective, Range
from tspin.tools.spelling import unknown

TARGET = "_target_"
OURS = objectives.__name__
KEYS_OF_COEF = {"lam": "lambda"}  # in Python lambda is no name for a field
SCALES = ("alpha", "lam")  # coefficients that multiply the advantage, which the group coef sets


@cache
def objective_class(target: str) -> type[Objective]:
    """The class called MODULE.CLASS. ValueError, in one line, for what is no objective."""
    setting = f"loss.{TARGET}={target}"
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ValueError(f"{setting} is no MODULE.CLASS, as {OURS}.TSPIN is")
    here = str(Path.cwd())
    if here not in sys.path:  # of main.py, started by its path from another folder
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of the user's raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{setting} cannot be imported ({reason}): {module_name} has to be installed, or a "
            f"module in {here}"
        ) from error
    if not hasattr(module, name):
        choices = (word for word, value in vars(module).items() if _is_objective(value))
        raise ValueError(f"{setting}: {unknown(f'class {name}', name, choices)}")
    kind = getattr(module, name)
    if problem := _no_objective(kind):
        raise ValueError(f"{setting} {problem}")
    return kind


def _is_objective(value: Any) -> TypeGuard[type[Objective]]:
    return isinstance(value, type) and issubclass(value, Objective) and value is not Objective


def _no_objective(kind: Any) -> str | None:
    """What it lacks, as the end of a sentence."""
    if not isinstance(kind, type):
        return f"is no class but of type {type(kind).__name__}; name a class of objectives"
    if not _is_objective(kind):
        return f"is no objective: derive it from {OURS}.Objective, and give it roles and __call__"
    missing = kind.__abstractmethods__
    if "roles" in missing:
        return "has no roles: say which responses it reads, as roles = ('annotated', 'synthetic')"
    if missing:
        return f"has no {', '.join(sorted(missing))}"
    if "__dataclass_fields__" not in vars(kind):
        return "is no dataclass: write @dataclass(frozen=True) above it; fields are coefficients"
    for other in built_in():  # runs know an objective by its name
        if vars(kind).get("name") == other.name and kind is not other:
            return f"calls itself {other.name}, and so does {OURS}.{other.__name__}; rename it"
    return None


def built_in() -> list[type[Objective]]:
    """The objectives that tspin brings."""
    return [value for value in vars(objectives).values() if _is_objective(value)]


@cache
def coefficients(target: str) -> dict[str, tuple[TypeAdapter[Any], list[Range]]]:
    """Field of the class -> how its values are read, and what they may be; in its order.

    ValueError for a type that cannot be read.
    """
    kind, finite = objective_class(target), ConfigDict(allow_inf_nan=False)
    try:
        hints = get_type_hints(kind, include_extras=True)
        own = {name: hints[name] for name in kind.coefficients()}
        marks = {name: getattr(hint, "__metadata__", ()) for name, hint in own.items()}
        return {
            name: (TypeAdapter(hint, config=finite), [m for m in marks[name] if type(m) is Range])
            for name, hint in own.items()
        }
    except Exception as error:  # whatever an annotation of the user's raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"loss.{TARGET}={target}: the types of its fields ({reason})") from error


def key_of(name: str, value: Any, coef: Mapping[str, Any]) -> str:
    """What sets a coefficient: coef.NAME where the group says the same, else loss.NAME."""
    key = KEYS_OF_COEF.get(name, name)
    return f"coef.{key}" if key in coef and coef[key] == value else f"loss.{name}"


def read(
    target: str, given: Mapping[str, Any], coef: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The coefficients in their types, and {key: what is wrong with it}.

    coef  the group `coef`, see key_of
    """
    try:
        known = coefficients(target)
    except ValueError as error:
        return {}, {f"loss.{TARGET}": str(error)}
    typed, wrong = {}, {}
    for name in given.keys() - known.keys():
        what = f"coefficient loss.{name} of {target}"
        wrong[f"loss.{name}"] = unknown(what, name, known)
    for name, (reader, ranges) in known.items():
        if name not in given:
            wrong[f"loss.{name}"] = f"loss.{name} is not set, a coefficient of {target}"
            continue
        value = given[name]
        if value == AUTO == coef.get("alpha"):  # it follows coef.alpha
            typed[name] = value
            continue
        if value == [] and not ranges:  # those with a range are refused with it
            key = key_of(name, value, coef)
            wrong[key] = f"{key}=[] has no value: one, or one per iteration"
            continue
        try:
            converted = [reader.validate_python(item) for item in values(value)]
        except ValidationError as error:
            key = key_of(name, value, coef)
            wrong[key] = must_be(key, error.errors())
            continue
        typed[name] = converted if isinstance(value, list) else converted[0]
    return typed, wrong
