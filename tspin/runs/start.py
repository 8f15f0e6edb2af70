"""How a run begins: at iteration 0 or behind an iteration of another run, and what `auto` comes to.

settled.json has the numbers that were chosen in place of auto, and from what; config.yaml has them
too, so that its readers know no auto. A run that is planned is compared with others as it was asked
for (`as_asked`): those of equal rows settle alike. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tspin.config import auto, older
from tspin.config.load import dump, load
from tspin.config.run import Run
from tspin.runs.artifacts import Iteration, RunDir
from tspin.tools.files import flatten, read_json, write_json


def first_iteration(cfg: Run) -> int:
    """The iteration a run begins with: 0, or the one after selfplay.start_from."""
    if cfg.selfplay.start_from is None:
        return 0
    first = start_from(cfg).t + 1
    if first >= cfg.selfplay.iterations:
        raise ValueError(
            f"selfplay.iterations={cfg.selfplay.iterations} leaves nothing to do after "
            f"selfplay.start_from={cfg.selfplay.start_from}; it counts from 0, use {first + 1}"
        )
    return first


def start_from(cfg: Run) -> Iteration:
    """The iteration of another run that this one goes on from."""
    assert cfg.selfplay.start_from is not None
    out = Iteration(Path(cfg.selfplay.start_from).expanduser())
    if not out.done.exists():
        raise ValueError(
            f"selfplay.start_from={cfg.selfplay.start_from} is no finished iteration of a run "
            "(RUN/iter_T with done.json); to begin with other weights use model.path=FOLDER"
        )
    return out


# --- auto ----------------------------------------------------------------------------------------


def settled(folder: RunDir) -> dict[str, dict[str, Any]]:
    """Key -> value, and the numbers that it was made from; of a run that has settled any."""
    return read_json(folder.settled) if folder.settled.exists() else {}


def settle(run: Run, folder: RunDir, key: str, value: float, **origin: float) -> Run:
    """The run with `value` for a key that is auto, which its folder now says.

    origin  what it was made from, by name
    """
    write_json(folder.settled, settled(folder) | {key: {"value": value, **origin}})
    return _with(run, {key: (auto.AUTO, value)})


def as_begun(run: Run, folder: RunDir) -> Run:
    """With what auto came to in its folder, as far as it was settled there."""
    if not run.unsettled:
        return run
    known = {key: fact["value"] for key, fact in settled(folder).items()} or _earlier(folder)
    return _with(run, {key: (auto.AUTO, value) for key, value in known.items()})


def as_asked(run: Run, folder: RunDir) -> Run:
    """The other way: auto where the run has what auto came to in its folder."""
    return _with(run, {key: (fact["value"], auto.AUTO) for key, fact in settled(folder).items()})


def _earlier(folder: RunDir) -> dict[str, Any]:
    """Of a folder that was begun when a key that is auto now had a number for its default."""
    if not folder.config.exists():
        return {}
    try:
        stored = flatten(yaml.safe_load(folder.config.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, yaml.YAMLError):  # whoever claims the folder says so
        return {}
    return {key: value for key, value in older.BEFORE_AUTO.items() if stored.get(key) == value}


def _with(run: Run, changes: Mapping[str, tuple[Any, Any]]) -> Run:
    """changes: key -> what it is now and what it becomes; others are as they were."""
    if not changes:
        return run
    tree = dump(run)
    for key, (now, then) in changes.items():
        section, name = key.split(".")
        if tree[section][name] != now:
            continue
        tree[section][name] = then
        if key == auto.ALPHA:  # the coefficients of the loss that follow it
            tree["loss"] |= {field: then for field, value in tree["loss"].items() if value == now}
    return load(tree)
