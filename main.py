"""Command line: compose the configuration, check it, run self-play. DictConfig stops here.

python main.py [GROUP=OPTION ...] [KEY=VALUE ...]        one run
python main.py -m loss=sft,tspin seed=0,1,2              every combination
python main.py -m sweep=alpha_beta                       the grids of sweeps/alpha_beta.yaml
python main.py --help
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tspin.cli import arguments as words
from tspin.cli import sweep
from tspin.config.identity import run_name
from tspin.config.load import dump, load
from tspin.config.run import Run
from tspin.distributed import launcher
from tspin.runs.point import Point, distinct
from tspin.tools import signals
from tspin.tools.spelling import unknown

ROOT = Path(__file__).resolve().parent
CONF, SWEEPS = ROOT / "conf", ROOT / "sweeps"
NAMED_BY = ("model", "loss", "data")  # groups whose choice stands in the run's name
OURS = "hydra/sweeper=points"
DRY_RUN = "--dry-run"

log = logging.getLogger("tspin")
guesses: dict[str, float] = {}  # objective -> learning rate that the model's file has for the rest


def choose(key: str, table: DictConfig, *, _node_: Node) -> Any:
    """${choose:KEY, {a: 1, *: 2}} in conf/: a value that depends on another; * is the rest.

    For a learning rate * is a guess, which `typed` says once it is known to be the run's.
    """
    choices = [str(k) for k in table]
    if key not in choices and "*" not in choices:
        raise ValueError(unknown(f"entry {key} of a choose", key, choices))
    value = table[key if key in choices else "*"]
    if key not in choices and _node_._get_full_key(None) == "optim.lr":
        guesses[key] = value
    return value


OmegaConf.register_new_resolver("choose", choose, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """One point: a single run, or one of a multirun's."""
    hydra_cfg = HydraConfig.get()
    single = hydra_cfg.mode == RunMode.RUN
    try:
        run = typed(cfg, hydra_cfg)
        if not single:
            log.info("--- %s", run.name)
        from tspin.selfplay import (
            algorithm,  # torch and transformers: not before the configuration is right
        )
        from tspin.tools.terminal import results_table

        words_here = list(hydra_cfg.overrides.task)
        with signals.watched(run.compute.grace_seconds):
            rows = algorithm.run(run, command=sys.argv if single else [sys.argv[0], *words_here])
        log.info("\n%s\nfiles: %s", results_table(rows), run.folder)
    except (ValueError, OSError, FloatingPointError) as error:
        log.error("error: %s", error)
        if single:
            sys.exit(1)
        raise  # Hydra goes on with the other points and exits with 1 in the end
    except KeyboardInterrupt:
        log.error("interrupted; the same command goes on from here")
        sys.exit(130)  # of a multirun too
    except signals.Preempted as stopped:
        log.error("stopped by %s; the same command goes on from here", stopped)
        code = signals.leave()
        if single or hydra_cfg.runtime.choices["hydra/launcher"] == "basic":
            sys.exit(code)
        raise signals.Stopped("to be requeued") from None  # the other workers get to save, too
    except Exception as error:  # a fault of ours; of a single run Hydra shows the traceback
        if not single:
            log.error("error: %s", error, exc_info=error)
        raise


def typed(cfg: DictConfig, hydra_cfg: Any) -> Run:
    """The composed tree as a Run, named for what differs from its model's, loss's and data's own.

    hydra_cfg  Hydra's node of the same composition: which options were chosen, where from
    """
    guesses.clear()
    tree = plain(cfg)
    for loss, lr in guesses.items():
        _say_guess(tree["model"]["name"], loss, lr)
    if tree["name"] is not None:
        return load(tree)
    run = load(tree | {"name": "unnamed"})
    own = [o for o in hydra_cfg.overrides.hydra if o.startswith("hydra.searchpath")]
    own += [f"{group}={hydra_cfg.runtime.choices[group]}" for group in NAMED_BY]
    return replace(run, name=run_name(dump(run), _alone((*own, f"seed={run.seed}"))))


@cache
def _say_guess(model: str, loss: str, lr: float) -> None:
    """Once for all points of a sweep."""
    log.info("optim.lr=%g: model=%s has none for loss=%s; optim.lr=VALUE sets it", lr, model, loss)


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


@dataclass(frozen=True)
class Command:
    """A command line, once every point of it is known to be a Run.

    arguments  as Hydra reads them
    points     each once; none where another hydra/sweeper makes them
    name       how the points are called together
    """

    arguments: list[str]
    points: list[Point]
    name: str
    multirun: bool
    dry_run: bool


def check(arguments: list[str]) -> Command:
    """Composes every point. ValueError, in one line with the choices, for what is no Run.

    Hydra's own message names neither the nearest key nor the choices, and in a multirun it comes
    after the points before it ran.
    """
    dry_run = DRY_RUN in arguments
    arguments = [argument for argument in arguments if argument != DRY_RUN]
    flags = get_args_parser().parse_intermixed_args(arguments)
    words.check(flags.overrides)
    options = [argument for argument in arguments if argument not in flags.overrides]
    name, lines = words.sweep(flags.overrides, SWEEPS)
    lines = [words.tasks(line, CONF) for line in lines]
    if name and not flags.multirun:
        raise ValueError(f"sweep={name} makes several runs: add -m")
    hydras = [word for word in flags.overrides if word.startswith("hydra")]
    foreign = [word for word in hydras if word.startswith("hydra/sweeper=") and word != OURS]
    if flags.multirun and foreign:
        if name or dry_run:
            raise ValueError(f"{foreign[0]} has no plan and knows no sweep=NAME: leave it out")
        return Command([*lines[0], *options], [], "", multirun=True, dry_run=False)
    if flags.config_dir:
        hydras.append(f"hydra.searchpath=[file://{Path(flags.config_dir).resolve()}]")
    points = []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for line in lines:
            for chosen in _grid(line, multirun=flags.multirun):
                points.append(Point(tuple(chosen), compose([*hydras, *chosen])))
    points = distinct(points, name)
    for folder in {point.run.folder.parent for point in points}:
        there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ValueError(f"runs_dir={folder}: {there} is no folder we may write to")
    common = [word for word in lines[0] if all(word in line for line in lines)]
    name = name or ("multirun" if flags.multirun else "run")
    return Command([*common, *options], points, name, multirun=flags.multirun, dry_run=dry_run)


def _grid(line: words.Words, *, multirun: bool) -> Iterator[words.Words]:
    """The points of a line: every combination of its alternatives, Hydra's own settings aside."""
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    alternatives = []
    for override in parser.parse_overrides([w for w in line if not w.startswith("hydra")]):
        if not override.is_sweep_override():
            alternatives.append([str(override.input_line)])
            continue
        if not multirun:
            raise ValueError(f"{override.input_line} is a sweep: add -m (a list is [A,B])")
        key = str(override.input_line).split("=", 1)[0]
        alternatives.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    yield from map(list, product(*alternatives))


def compose(overrides: words.Words) -> Run:
    """One point as a Run, inside a hydra.initialize_*. ValueError says what is misspelt."""
    values = [word for word in overrides if words.is_value(word)]
    try:
        whole = _composed(tuple(word for word in overrides if word not in values))
        cfg = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
        OmegaConf.set_struct(cfg, True)
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        ConfigLoaderImpl._apply_overrides_to_config(parser.parse_overrides(values), cfg)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(words.explain(overrides, str(error), CONF, _unresolved)) from None
    return typed(cfg, whole.hydra)


@cache
def _composed(options: tuple[str, ...]) -> DictConfig:
    """What these words make: most of the time a point takes, so once for all that differ in values.

    Hydra's node is in it.
    """
    return hydra.compose("config", list(options), return_hydra_config=True)


def _unresolved(options: words.Words) -> dict[str, Any]:
    tree = OmegaConf.to_container(hydra.compose("config", options), resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _one_by_one(command: Command, size: int) -> str:
    words = " ".join(command.points[0].words) if command.points else "WORDS OF A POINT"
    return (
        f"a multirun is started once, not by each of {size} processes: give its points one by one, "
        f"each as torchrun --nproc_per_node={size} main.py {words} (-m --dry-run lists them)"
    )


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    rank, size = launcher.launched()
    # One process of those that a launcher started speaks for all.
    log.setLevel(logging.INFO if rank == 0 else logging.CRITICAL)
    try:
        command = check(sys.argv[1:])
        if command.multirun and size > 1 and not command.dry_run:
            raise ValueError(_one_by_one(command, size))
        if command.points and (command.dry_run or command.multirun):
            plan = sweep.plan(command.name, command.points)
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        log.error("error: %s", " ".join(str(error).split()))
        sys.exit(2)
    if command.dry_run:
        log.info("%s", plan.describe())
        return
    if command.multirun and command.points:
        # Not at the top: when Hydra first looks for plugins (in check) it executes them anew.
        from hydra_plugins.tspin import Points

        Points.plan = plan
    sys.argv[1:] = command.arguments
    job()


if __name__ == "__main__":
    from main import main as by_name  # launchers pickle `job` for workers, which import `main`

    by_name()
