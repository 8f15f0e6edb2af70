"""Words of the command line: what people type, made into what Hydra reads. No Hydra here.

A word is GROUP=OPTION or KEY=VALUE. A line of words is a grid: commas are alternatives. Sweep files
(sweeps/NAME.yaml) hold such lines; the union of their grids is the sweep.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tspin.runs.point import key
from tspin.tools.spelling import unknown

Words = list[str]
FIELDS = {"title": str, "points": list, "include": list}  # of a sweep file
SINGLE = ("name", "runs_dir", "seed")  # keys of a run beside its sections
OPEN = ("evals.tasks", "decoding.vllm_args")  # mappings whose keys are the user's


def check(words: Iterable[str]) -> None:
    """ValueError for what is no word, or takes something away."""
    for word in words:
        if word.startswith("~"):
            raise ValueError(f"{word}: nothing can be left out; KEY=null is for what may be empty")
        if "=" not in word:
            raise ValueError(f"{word} is neither GROUP=OPTION nor KEY=VALUE; see --help")


def is_group(word: str, conf: Path) -> bool:
    """Whether it chooses an option of conf/ (Hydra's own settings aside)."""
    name, value = key(word), word.split("=", 1)[1]
    return not name.startswith("hydra") and (conf / name).is_dir() and not value.startswith("{")


def is_value(word: str) -> bool:
    """Whether Hydra sets it last, in the tree that options (and its own settings) have made."""
    name = key(word)
    dotted = "." in name and "/" not in name and "@" not in name
    return name in SINGLE or (dotted and not name.startswith("hydra"))


def options(group: str, conf: Path) -> list[str]:
    """Names of the options of a group, an alias in a folder (w/o-H-A) included."""
    folder = conf / group
    return [str(f.relative_to(folder).with_suffix("")) for f in folder.rglob("*.yaml")]


# --- sweeps --------------------------------------------------------------------------------------


def sweep(words: Sequence[str], folder: Path) -> tuple[str | None, list[Words]]:
    """The name behind sweep=NAME, and the lines of words that it and the other words make.

    Words that are typed replace the file's for the same key, and add to every line of it. Without
    sweep=NAME the one line is what was typed.
    """
    chosen = [word.split("=", 1)[1] for word in words if key(word) == "sweep"]
    typed = [word for word in words if key(word) != "sweep"]
    if not chosen:
        return None, [typed]
    if len(chosen) > 1:
        raise ValueError(f"sweep={chosen[0]} and sweep={chosen[1]}: one sweep at a time")
    own = {key(word) for word in typed}
    lines = [
        [*(word for word in line if key(word) not in own), *typed]
        for line in read_sweep(chosen[0], folder)
    ]
    return Path(chosen[0]).stem, lines


def read_sweep(name: str, folder: Path) -> list[Words]:
    """The lines of sweeps/NAME.yaml, or of a file of one's own (NAME.yaml), as lists of words.

    ValueError, naming the file, for what is no sweep.
    """
    file = Path(name).expanduser() if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not file.is_file():
        there = sorted(path.stem for path in folder.glob("*.yaml"))
        raise ValueError(f"{unknown(f'sweep {name}', name, there)}, or a FILE.yaml")
    return _lines(file, (), folder)


def _lines(file: Path, including: tuple[Path, ...], folder: Path) -> list[Words]:
    if file in including:
        raise ValueError(f"{file} includes itself")
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{file} is no sweep: it needs {', '.join(FIELDS)}")
    for name, value in told.items():
        if name not in FIELDS:
            raise ValueError(f"{file}: {unknown(f'key {name}', str(name), FIELDS)}")
        if not isinstance(value, FIELDS[name]):
            raise ValueError(f"{file}: {name} has to be a {FIELDS[name].__name__}")
    included, points = told.get("include", []), told.get("points", [])
    if not included and not points:
        raise ValueError(f"{file} has neither points nor include")
    lines = []
    for name in included:
        path = folder / f"{name}.yaml"
        if not path.is_file():
            there = sorted(other.stem for other in folder.glob("*.yaml"))
            raise ValueError(f"{file}: {unknown(f'sweep {name}', str(name), there)}")
        lines += _lines(path, (*including, file), folder)
    for line in points:
        if not isinstance(line, str):
            raise ValueError(f"{file}: {line!r} is no line of words: - GROUP=OPTION KEY=VALUE")
        try:
            words = shlex.split(line)
            check(words)
        except ValueError as error:
            raise ValueError(f"{file}: {line!r}: {error}") from None
        if any(key(word) == "sweep" for word in words):
            raise ValueError(f"{file}: {line!r}: other sweeps stand under include")
        lines.append(words)
    return lines


# --- benchmarks by name --------------------------------------------------------------------------


def tasks(words: Iterable[str], conf: Path) -> Words:
    """evals=gsm8k,hellaswag, names of lm-eval, as words that Hydra reads; the rest unchanged.

    ValueError for what is nearly an option, and for options among tasks. Which tasks there are
    only lm-eval knows (tspin.stages.benchmark).
    """
    found: Words = []
    for word in words:
        names = word.split("=", 1)[1].strip("[]").split(",")
        there = options("evals", conf)
        if key(word) != "evals" or not all(names) or all(name in there for name in names):
            found.append(word)
            continue
        for name in names:
            if name in there:
                raise ValueError(f"{word}: {name} is an option; give either options or tasks")
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.85)
            # leaderboard and its like are groups of lm-eval's own
            if name in ("null", "None") or (near and not near[0].startswith(f"{name}_")):
                raise ValueError(unknown(f"option evals={name}", name, [*there, "TASK,TASK"]))
        found.append("evals=tasks")
        found += [f"++evals.tasks.{name}={{shots:null,metric:null}}" for name in names]
    return found


# --- what is misspelt ----------------------------------------------------------------------------


def explain(
    words: Sequence[str], message: str, conf: Path, compose: Callable[[Words], dict[str, Any]]
) -> str:
    """Hydra's complaint about `words`, with the choices where a key or an option is misspelt.

    compose  the tree that options alone make, interpolations as they are written
    """
    groups = [word for word in words if is_group(word, conf)]
    for word in groups:
        group, option = word.lstrip("+").split("=", 1)
        if word.startswith("+"):
            return f"{word}: every group is there already; write {group}={option}"
        there = options(group, conf)
        for name in option.strip("[]").split(","):
            refused = f"'{group}/{name}'" in message or "override must be a string" in message
            if refused and name not in there:
                return unknown(f"option {group}={name}", name, there)
    tree = compose([word for word in words if word in groups or key(word).startswith("hydra")])
    for word in words:
        name = key(word)
        if name.startswith(("hydra", *OPEN)) or word in groups:
            continue
        node: Any = tree
        path = name.split(".")
        for i, part in enumerate(path):
            if isinstance(node, list):
                break
            if not isinstance(node, dict):
                return f"unknown key {name}: {'.'.join(path[:i])} is a single value"
            if part not in node:
                choices = {*map(str, node)} | (_top_level(conf) if i == 0 else set())
                return unknown(f"key {'.'.join(path[: i + 1])}", part, choices)
            node = node[part]
    return message


def _top_level(conf: Path) -> set[str]:
    """What may be typed beside the keys of a run: groups that leave no key, and sweep."""
    groups = {folder.name for folder in conf.iterdir() if folder.is_dir()}
    return {*groups, "sweep"} - {"hydra"}
