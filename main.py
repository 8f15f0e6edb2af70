"""Command line: compose the configuration, check it, run self-play. DictConfig stops here.

python main.py [GROUP=OPTION ...] [KEY=VALUE ...]        one run
python main.py -m loss=sft,tspin seed=0,1,2              every combination
python main.py --help
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tspin.config import Run, load, run_name, unknown

CONF = Path(__file__).resolve().parent / "conf"
NAMED_BY = ("model", "loss", "data")  # groups whose choice stands in the run's name

log = logging.getLogger("tspin")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(cfg: DictConfig) -> None:
    """One point: a single run, or one of a multirun's."""
    hydra_cfg = HydraConfig.get()
    single = hydra_cfg.mode == RunMode.RUN
    try:
        run = typed(cfg, chosen=dict(hydra_cfg.runtime.choices))
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


def typed(cfg: DictConfig, *, chosen: dict[str, str | None]) -> Run:
    """The composed tree as a Run, named for what differs from its model's, loss's and data's own.

    chosen  group -> option, as composed
    """
    tree = plain(cfg)
    if tree["name"] is None:
        own = [f"{group}={chosen[group]}" for group in NAMED_BY]
        tree["name"] = run_name(tree, plain(hydra.compose("config", own), partial=True))
    return load(tree)


def plain(cfg: DictConfig, *, partial: bool = False) -> dict[str, Any]:
    """Resolved containers. ValueError names a value that has to be given, unless `partial`."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=not partial)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ValueError(f"{key} has to be given: {key}=VALUE") from None
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def check_overrides(arguments: list[str]) -> None:
    """ValueError, in one line with the choices, for an override that does not compose.

    Hydra's own message names neither the nearest key nor the choices, and in a multirun it comes
    after the points before it have run: every value of every sweep is tried here first.
    """
    flags = get_args_parser().parse_args(arguments)
    for word in flags.overrides:
        if "=" not in word and not word.startswith("~"):
            raise ValueError(f"{word} is neither GROUP=OPTION nor KEY=VALUE; see --help")
    parsed = OverridesParser.create().parse_overrides(flags.overrides)
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    if flags.config_dir:
        fixed.append(f"hydra.searchpath=[file://{Path(flags.config_dir).resolve()}]")
    points: list[list[str]] = [[]]
    for override in parsed:
        if override.is_sweep_override():
            key = override.get_key_element()
            points += [[f"{key}={value}"] for value in override.sweep_string_iterator()]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for point in points:
            _check_point(fixed + point, lenient=not point and len(points) > 1)


def _check_point(overrides: list[str], *, lenient: bool) -> None:
    try:
        cfg = hydra.compose("config", overrides)
        if not lenient:
            typed(cfg, chosen=_choices(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(overrides, str(error))) from None


def _choices(overrides: list[str]) -> dict[str, str | None]:
    cfg = hydra.compose("config", overrides, return_hydra_config=True)
    return dict(cfg.hydra.runtime.choices)


def _explain(overrides: list[str], message: str) -> str:
    """Hydra's complaint, with the choices where a key or an option is misspelt."""
    groups = [o for o in overrides if _is_group(o)]
    for override in groups:
        group, option = override.lstrip("+~").split("=", 1)
        options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        if "Could not find" in message and not (CONF / group / f"{option}.yaml").exists():
            return unknown(f"option {override}", option, options)
    node: Any
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if key.startswith("hydra") or override in groups:
            continue
        node, path = hydra.compose("config", groups), key.split(".")
        for i, part in enumerate(path):
            choices = [str(k) for k in node] if isinstance(node, DictConfig) else []
            if part not in choices:
                return unknown(f"key {'.'.join(path[: i + 1])}", part, choices)
            node = node._get_node(part)
    return " ".join(message.split())


def _is_group(override: str) -> bool:
    key = override.split("=", 1)[0].lstrip("+~")
    return (CONF / key).is_dir()


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    OmegaConf.register_new_resolver("choose", lambda key, table: table[key], replace=True)
    try:
        check_overrides(sys.argv[1:])
    except (ValueError, HydraException) as error:
        log.error("error: %s", error)
        sys.exit(2)
    job()


if __name__ == "__main__":
    main()
