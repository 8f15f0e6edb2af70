"""From overrides to a Run, by Hydra's public interfaces. DictConfig stops here.

Importing this registers the resolvers of conf/: `choose` and `own_length`, and those of
its help.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from tspin.cli import arguments
from tspin.cli.arguments import Overrides
from tspin.cli.folders import CONF, SWEEPS, program, run_command, torchrun_words
from tspin.config.identity import OF_ONES_OWN, Paths, paths_of, run_name
from tspin.config.load import dump, load
from tspin.config.run import Run
from tspin.policy import model_files
from tspin.runs.artifacts import RunDir
from tspin.runs.point import key, stored
from tspin.tools.log import once
from tspin.tools.spelling import unknown

VERSION = "1.3"  # of Hydra's behaviour
PRIMARY = "config"  # the file of conf/ that others are chosen from
NAMED_BY = ("model", "loss", "data")  # groups whose choice stands in the run's name
SEARCHPATH = "hydra.searchpath"

_compositions: dict[tuple[str, ...], DictConfig] = {}  # options -> what they make
_defaulted: dict[str, float] = {}  # objective -> learning rate that its model has for the rest
_shortened: dict[str, int] = {}  # model.path -> its own length, where that is less than the default


def compose(overrides: Overrides, *, exact: bool = False) -> Run:
    """One point as a Run, inside a hydra.initialize_*. ValueError says what is misspelt.

    exact  named so that no other path could have made the name
    """
    values = [override for override in overrides if arguments.is_value(override)]
    try:
        options = sorted((o for o in overrides if o not in values), key=key)
        whole = _composed(tuple(options))
        cfg = _ours(whole)
        OmegaConf.set_struct(cfg, True)
        for override in parsed(values):
            _apply(override, cfg)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(arguments.explain(overrides, str(error), CONF, _unresolved)) from None
    return typed(cfg, whole.hydra, exact=exact)


def parsed(overrides: Overrides) -> list[Override]:
    """Overrides by Hydra's grammar; HydraException for what is none of it."""
    loader = GlobalHydra.instance().config_loader()
    return OverridesParser.create(loader).parse_overrides(overrides)


def typed(cfg: DictConfig, hydra_cfg: Any, *, exact: bool = False) -> Run:
    """The composed tree as a Run, named for what differs from its model's, loss's and data's own.

    hydra_cfg  Hydra's node of the same composition: which options were chosen, where from
    exact      see compose
    """
    _defaulted.clear()
    _shortened.clear()
    tree = plain(cfg)
    for loss, lr in _defaulted.items():
        once(
            f"optim.lr={lr:g}: model={tree['model']['name']} has none for loss={loss}; "
            "optim.lr=VALUE sets it"
        )
    for path, length in _shortened.items():
        once(
            f"model.max_length={length}: {path} has no more positions; model.max_length=VALUE "
            "sets it"
        )
    if tree["name"] is not None:
        return load(tree)
    run = load(tree | {"name": "unnamed"})
    return _named(run, _defaults(_naming(hydra_cfg), run.seed), exact=exact)


def _named(run: Run, usual: dict[str, Any], *, exact: bool) -> Run:
    """The run under the name that it has already, an earlier version's too; else by the end of its
    paths, or exactly where a run of other paths, which end alike, has that name."""
    values = dump(run)
    taken = {option for group in OF_ONES_OWN for option in arguments.options(group, CONF)}
    end, exactly, oldest = (
        replace(run, name=run_name(values, usual, paths=paths, taken=taken))
        for paths in get_args(Paths)
    )
    for known in (exactly, end, oldest):
        if known.folder.exists() and (known is not end or _is_of(known)):
            return known
    return exactly if exact or end.folder.exists() else end


def _is_of(run: Run) -> bool:
    """Whether the run in its folder, as far as that can be read, is of the same paths."""
    point = stored(RunDir(run.folder))
    return point is None or paths_of(point.run) == paths_of(run)


def plain(cfg: DictConfig, *, partial: bool = False) -> dict[str, Any]:
    """Resolved containers. ValueError names a value that has to be given, unless `partial`."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=not partial)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        missing = f"{key} has to be given: {key}=VALUE"
        raise ValueError("; ".join([*_no_such_model(cfg), missing])) from None
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _no_such_model(cfg: DictConfig) -> list[str]:
    """What is wrong with a folder for model= that is not there: it brings no data of its own, so
    that this would be said only once some are given."""
    model = OmegaConf.select(cfg, "model", default={})
    if model.get("name") != "custom" or OmegaConf.is_missing(model, "path"):
        return []
    path = str(model.path)
    is_there = model_files.is_hub_id(path) or Path(path).expanduser().exists()
    return [] if is_there else [model_files.no_such(path)]


def _apply(override: Override, cfg: DictConfig) -> None:
    """Sets one value in the composed tree, as Hydra does: + adds a key, ++ adds or replaces."""
    key, value = override.key_or_group, override.value()
    if override.is_add() and not isinstance(value, dict | list):
        if OmegaConf.select(cfg, key, throw_on_missing=False) is not None:
            raise ValueError(f"{override.input_line}: {key} is there already; write {key}=VALUE")
    added = override.is_add() or override.is_force_add()
    try:
        OmegaConf.update(cfg, key, value, merge=True, force_add=added)
    except (ConfigAttributeError, ConfigKeyError):
        line = override.input_line
        raise ValueError(f"{line}: there is no {key}; to add it write +{line}") from None


@cache
def _defaults(options: tuple[str, ...], seed: int) -> dict[str, Any]:
    """What these options make alone, with a seed."""
    cfg = _ours(_composed(options))
    cfg.seed = seed
    return plain(cfg, partial=True)


def _composed(options: tuple[str, ...]) -> DictConfig:
    """What these overrides make, Hydra's node included.

    It is most of the time a point takes, so once for all points that differ in values alone, and
    once for a point and what names it where it has no option of another group. The order of groups
    is nothing to Hydra, so they come in one; of each the last option holds.
    """
    if options not in _compositions:
        whole = hydra.compose(PRIMARY, list(options), return_hydra_config=True)
        _compositions[options] = whole
        if all(key(option) in (*NAMED_BY, SEARCHPATH) for option in options):
            _compositions[_naming(whole.hydra)] = whole
    return _compositions[options]


def _naming(hydra_cfg: Any) -> tuple[str, ...]:
    """The options, of all that were chosen, that a run is named by."""
    paths = [o for o in hydra_cfg.overrides.hydra if key(o) == SEARCHPATH]
    chosen = [f"{group}={hydra_cfg.runtime.choices[group]}" for group in NAMED_BY]
    return tuple(sorted([*paths, *chosen]))


def _ours(whole: DictConfig) -> DictConfig:
    """A copy of what was composed, without Hydra's node."""
    return OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])


def _unresolved(options: Overrides) -> Any:
    return OmegaConf.to_container(hydra.compose(PRIMARY, options), resolve=False)


# --- resolvers -----------------------------------------------------------------------------------


def choose(key: str, table: DictConfig, *, _node_: Node) -> Any:
    """${choose:KEY, {a: 1, *: 2}} in conf/: a value that depends on another; * is the rest.

    Where a learning rate falls to *, `typed` says so once the value is known to be the run's.
    """
    choices = [str(k) for k in table]
    if key not in choices and "*" not in choices:
        raise ValueError(unknown(f"entry {key} of a choose", key, choices))
    value = table[key if key in choices else "*"]
    if key not in choices and _node_._key() == "lr":
        _defaulted[key] = value
    return value


def own_length(most: int, *, _parent_: DictConfig) -> int:
    """${own_length:2048} of a model: this, or the positions that model.path has, if fewer.

    A function of the model alone: a run that goes on has the length that it began with.
    """
    if OmegaConf.is_missing(_parent_, "path"):
        return most
    length = model_files.own_length(str(_parent_.path), _parent_.revision)
    if length is None or length >= most:
        return most
    _shortened[str(_parent_.path)] = length
    return length


def groups() -> str:
    """${groups:} of the help: a line for each group of the search path, with its options, the
    default with a star behind it."""
    file = (CONF / f"{PRIMARY}.yaml").read_text(encoding="utf-8")
    entries = [entry for entry in yaml.safe_load(file)["defaults"] if isinstance(entry, dict)]
    default = {group: option for entry in entries for group, option in entry.items()}
    lines = []
    for name in GlobalHydra.instance().config_loader().list_groups(""):
        if name != "hydra":
            marked = (f"{o}*" if o == default.get(name) else o for o in _options(name))
            lines.append(f"{name:<11} {' '.join(marked)}")
    return "\n".join(_wrapped(line, 14) for line in lines)


def sweeps() -> str:
    """${sweeps:} of the help: the names of the files in sweeps/."""
    return _wrapped(" ".join(arguments.sweep_names(SWEEPS)), 2)


def _options(group: str) -> list[str]:
    """Names of the options of a group, those in folders of it (w/o-H-A) included."""
    loader = GlobalHydra.instance().config_loader()
    names = {*loader.get_group_options(group)}
    for folder in loader.list_groups(group):
        names |= {f"{folder}/{option}" for option in _options(f"{group}/{folder}")}
    return sorted(names)


def _wrapped(line: str, indent: int) -> str:
    """indent: of the second line"""
    rest = " " * indent
    return textwrap.fill(line, 100, initial_indent="  ", subsequent_indent=rest,
                         break_on_hyphens=False)  # fmt: skip


OF_HELP = (groups, sweeps, program, run_command, torchrun_words)
for _resolver in (choose, own_length, *OF_HELP):
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)
