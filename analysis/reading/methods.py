"""One run from its configuration: what it compares with, and what makes its method.

A method is an objective with its settings. In a setting, the main variant of an objective has the
plain name MODEL-LOSS-DATA-sSEED, else the shortest name that says how it differs, where a digest
says nothing; another variant is labelled by where it differs: "T-SPIN alpha=0.3".
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tspin.config.identity import NOT_OF_METHOD
from tspin.config.objective import KEYS_OF_COEF, TARGET
from tspin.config.schedules import at
from tspin.runs.artifacts import RunDir

NO_COEFFICIENTS = (TARGET, "name", "label", "link")  # of the section of an objective


def _is_set(value: Any) -> bool:
    """Whether a setting adds something: a switch that is off does not."""
    return value is not None and value is not False


def coefficients(values: Mapping[str, Any]) -> dict[str, Any]:
    """The coefficients that a run's objective contains: name -> number, or one per iteration.

    values  a configuration, flattened: "optim.lr" -> 3e-5
    """
    section = {k.removeprefix("loss."): v for k, v in values.items() if k.startswith("loss.")}
    return {KEYS_OF_COEF.get(k, k): v for k, v in section.items() if k not in NO_COEFFICIENTS}


class Setting(NamedTuple):
    """What runs must share to be compared."""

    model: str
    data: str
    split: str  # validation | test: which held-out prompts

    def __str__(self) -> str:
        return f"{self.model} on {self.data}" + ("" if self.split == "test" else f" ({self.split})")

    @property
    def slug(self) -> str:
        return "-".join(self[: 2 if self.split == "test" else 3])


@dataclass(frozen=True)
class Run:
    """The facts of one run, from its configuration."""

    folder: RunDir
    values: Mapping[str, Any]  # flattened: "optim.lr" -> 3e-5
    variant: Mapping[str, Any] = field(default_factory=dict)  # where it differs from the main one
    label: str = ""  # as tables print it, variant included

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def loss(self) -> str:
        return str(self.values["loss.name"])

    @property
    def setting(self) -> Setting:
        split = self.values.get("data.eval_split", "test")
        return Setting(self.values["model.name"], self.values["data.name"], split)

    @property
    def _words(self) -> str:
        """What its name says beyond model, loss, data and seed; all of another name."""
        start = f"{self.setting.model}-{self.loss}-{self.setting.data}-s{self.seed}"
        return self.name.removeprefix(start)

    @property
    def is_plain(self) -> bool:
        """Whether its name says nothing of a variant."""
        return not self._words

    @property
    def is_digest(self) -> bool:
        """Whether its name has a digest for what is too long to say (config.identity)."""
        return bool(re.fullmatch("-[0-9a-f]{8}", self._words))

    @property
    def iterations(self) -> int:
        """How many it is to do."""
        return int(self.values.get("selfplay.iterations", 0))

    @property
    def is_main(self) -> bool:
        """Whether it is its objective as configured by default, not a variant of it."""
        return not self.variant

    @property
    def is_anchored(self) -> bool:
        """Whether nothing but an anchor beside it makes it a variant."""
        return bool(self.variant) and all(key.startswith("anchor.") for key in self.variant)

    @cached_property
    def method(self) -> dict[str, Any]:
        """Settings that change numbers, beside the objective's name; coefficients as coef.NAME."""
        left_out = (*NOT_OF_METHOD, "coef.", "loss.")
        method = {key: value for key, value in self.values.items() if not key.startswith(left_out)}
        if method.get("data.seed") == self.seed:
            del method["data.seed"]  # another seed, not another method
        method |= {f"coef.{key}": value for key, value in coefficients(self.values).items()}
        return method | {key: self.values[key] for key in ("loss.link",) if key in self.values}

    def value(self, name: str) -> Any:
        """Of that key; None where it adds nothing to the run: of a switch that is off, of a
        coefficient that the objective does not contain."""
        values = self.method if name.startswith("coef.") else self.values
        return values[name] if _is_set(values.get(name)) else None

    def differs_only_in(self, *keys: str) -> bool:
        return set(self.variant) <= set(keys)

    def coefficient(self, name: str, t: int) -> float:
        """At iteration t; a list's last value repeats. NaN where the objective has none."""
        return float(at(coefficients(self.values).get(name, math.nan), t))


def finished(runs: Iterable[Run]) -> set[int]:
    """Iterations that all of them have finished."""
    done = [set(run.folder.iterations()) for run in runs]
    return set.intersection(*done) if done else set()


def labelled(runs: Sequence[Run], problem: Callable[[Path, str], None]) -> list[Run]:
    """The runs with their variants told apart, in the order of their names.

    An objective's main variant is the one whose name says nothing of it; where all names do, one on
    the number of pairs that most objectives of the setting have, and the one to which the least is
    added: an anchor, adapters.

    problem  is called for a label that a run's name does not say
    """
    result = []

    def objective(run: Run) -> tuple[Setting, str]:
        return run.setting, run.loss

    def size(run: Run) -> tuple[Setting, Any]:
        return run.setting, run.values.get("data.size")

    having = Counter(of for _, of in {(run.loss, size(run)) for run in runs})

    def rank(run: Run) -> tuple[Any, ...]:
        added = sum(map(_is_set, run.method.values()))
        alike = -having[size(run)], run.is_digest, added
        return not run.is_plain, *alike, len(run.name), run.name

    for _, group in itertools.groupby(sorted(runs, key=objective), key=objective):
        members = list(group)
        main = min(members, key=rank)
        label = main.values["loss.label"]
        variants = [_difference(run.method, main.method) for run in members]
        times = Counter(map(_last, {key for variant in variants for key in variant}))
        for run, variant in zip(members, variants, strict=True):
            short = {(_last(k) if times[_last(k)] == 1 else k): v for k, v in variant.items()}
            words = [f"{key}={_short(value)}" for key, value in sorted(short.items())]
            full = " ".join([label, *words])
            unnamed = [key for key in short if _last(key) not in run.name]
            if unnamed and not run.is_digest:
                other = f"{label} as {main.name} is, but with another {', '.join(unnamed)}"
                what = f"labelled {other}, which its name does not say; shown as {full}"
                problem(run.folder.config, what)
            result.append(replace(run, variant=variant, label=full))
    return sorted(result, key=lambda run: run.name)


def _difference(method: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    keys = sorted(method.keys() | usual.keys())
    return {key: method.get(key) for key in keys if method.get(key) != usual.get(key)}


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
