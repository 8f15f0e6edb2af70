"""Command line: compose the configuration, check it, run self-play. DictConfig stops here.

python main.py [GROUP=OPTION ...] [KEY=VALUE ...]        one run
python main.py -m loss=sft,tspin seed=0,1,2              every combination
python main.py --help
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tspin.config import Run, dump, load, run_name, unknown

CONF = Path(__file__).resolve().parent / "conf"
NAMED_BY = ("model", "loss", "data")  # groups whose choice stands in the run's name

log = logging.getLogger("tspin")

# ${choose:KEY, {a: 1, b: 2}} in conf/: a value that depends on another one.
OmegaConf.register_new_resolver("choose", lambda key, table: table[key], replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """One point: a single run, or one of a multirun's."""
    hydra_cfg = HydraConfig.get()
    single = hydra_cfg.mode == RunMode.RUN
    try:
        run = typed(cfg, hydra_cfg)
        if not single:
            log.info("--- %s", run.name)
        from tspin import selfplay  # torch and transformers: not before the configuration is right
        from tspin.console import results_table

        rows = selfplay.run(run, command=sys.argv)
        log.info("\n%s\nfiles: %s", results_table(rows), run.folder)
    except (ValueError, OSError, FloatingPointError) as error:
        log.error("error: %s", error)
        if single:
            sys.exit(1)
        raise  # Hydra goes on with the other points and exits with 1 in the end
    except KeyboardInterrupt:
        log.error("interrupted; the same command goes on from here")
        sys.exit(130)  # of a multirun too


def typed(cfg: DictConfig, hydra_cfg: Any) -> Run:
    """The composed tree as a Run, named for what differs from its model's, loss's and data's own.

    hydra_cfg  Hydra's node of the same composition: which options were chosen, where from
    """
    tree = plain(cfg)
    if tree["name"] is not None:
        return load(tree)
    run = load(tree | {"name": "unnamed"})
    own = [o for o in hydra_cfg.overrides.hydra if o.startswith("hydra.searchpath")]
    own += [f"{group}={hydra_cfg.runtime.choices[group]}" for group in NAMED_BY]
    return replace(run, name=run_name(dump(run), _alone((*own, f"seed={run.seed}"))))


@cache
def _alone(chosen: tuple[str, ...]) -> dict[str, Any]:
    """What these options make with nothing else said."""
    return plain(hydra.compose("config", list(chosen)), partial=True)


def plain(cfg: DictConfig, *, partial: bool = False) -> dict[str, Any]:
    """Resolved containers. ValueError names a value that has to be given, unless `partial`."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=not partial)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ValueError(f"{key} has to be given: {key}=VALUE") from None
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def check(arguments: list[str]) -> list[str]:
    """The command line in the order Hydra reads, once every point of it is known to be a Run.

    ValueError, in one line with the choices, for what is not. Hydra's own message names neither
    the nearest key nor the choices, and in a multirun it comes after the points before it ran.
    """
    flags = get_args_parser().parse_intermixed_args(arguments)
    words = flags.overrides
    for word in words:
        if word.startswith("~"):
            raise ValueError(f"{word}: nothing can be left out; KEY=null is for what may be empty")
        if "=" not in word:
            raise ValueError(f"{word} is neither GROUP=OPTION nor KEY=VALUE; see --help")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides(words)
        fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        if flags.config_dir:
            fixed.append(f"hydra.searchpath=[file://{Path(flags.config_dir).resolve()}]")
        swept = []
        for override in parsed:
            if override.is_sweep_override():
                if not flags.multirun:
                    raise ValueError(f"{override.input_line} is a sweep: add -m (a list is [A,B])")
                key = override.get_key_element()
                swept.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        runs: dict[Path, Run] = {}
        for point in product(*swept):
            run = compose([*fixed, *point])
            if runs.setdefault(run.folder, run) != run:
                raise ValueError(f"name={run.name} is one name for different runs; leave it out")
    for folder in {run.folder.parent for run in runs.values()}:
        there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ValueError(f"runs_dir={folder}: {there} is no folder we may write to")
    return [*words, *(a for a in arguments if a not in words)]


def compose(overrides: list[str]) -> Run:
    """One point as a Run, inside a hydra.initialize_*. ValueError says what is misspelt."""
    try:
        cfg = hydra.compose("config", overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(_explain(overrides, str(error))) from None
    ours = [str(key) for key in cfg if key != "hydra"]
    return typed(OmegaConf.masked_copy(cfg, ours), cfg.hydra)


def _explain(overrides: list[str], message: str) -> str:
    """Hydra's complaint, with the choices where a key or an option is misspelt."""
    groups = [o for o in overrides if _is_group(o)]
    for override in groups:
        group, option = override.lstrip("+").split("=", 1)
        if override.startswith("+"):
            return f"{override}: every group is there already; write {group}={option}"
        folder = CONF / group
        options = [str(f.relative_to(folder).with_suffix("")) for f in folder.rglob("*.yaml")]
        for word in option.strip("[]").split(","):
            refused = f"'{group}/{word}'" in message or "override must be a string" in message
            if refused and word not in options:
                return unknown(f"option {group}={word}", word, options)
    node: Any
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+")
        if key.startswith("hydra") or override in groups:
            continue
        node, path = hydra.compose("config", groups), key.split(".")
        for i, part in enumerate(path):
            if isinstance(node, ListConfig):
                break
            if not isinstance(node, DictConfig):
                return f"unknown key {key}: {'.'.join(path[:i])} is a single value"
            if part not in node:
                choices = [str(k) for k in node]
                return unknown(f"key {'.'.join(path[: i + 1])}", part, choices)
            node = node._get_node(part)
    return message


def _is_group(override: str) -> bool:
    key, value = override.split("=", 1)
    return (CONF / key.lstrip("+")).is_dir() and not value.startswith("{")


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        sys.argv[1:] = check(sys.argv[1:])
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        log.error("error: %s", " ".join(str(error).split()))
        sys.exit(2)
    job()


if __name__ == "__main__":
    main()
