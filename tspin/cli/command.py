"""The command line of a run, checked: flags, overrides, sweeps -> points that are Runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tspin.cli import arguments as overrides
from tspin.cli.arguments import Overrides
from tspin.cli.compose import SEARCHPATH, VERSION, compose, parsed
from tspin.cli.folders import CONF, SWEEPS, torchrun_words
from tspin.cli.quoting import as_typed, quoted_word
from tspin.config import rules
from tspin.config.identity import paths_of
from tspin.runs.point import Point, distinct, key
from tspin.tools.log import once

OURS = "hydra/sweeper=points"
DRY_RUN = "--dry-run"
# Flags of Hydra (python main.py --hydra-help): which of them take a value tells values of flags
# from overrides. Hydra reads them itself, later.
SWITCHES = (
    *(("--help", "-h"), ("--hydra-help",), ("--version",), ("--resolve",), ("--run", "-r")),
    *(("--multirun", "-m"), ("--shell-completion", "-sc")),
)
VALUED = (
    *(("--package", "-p"), ("--config-path", "-cp"), ("--config-name", "-cn")),
    *(("--config-dir", "-cd"), ("--experimental-rerun",)),
)
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


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

    def check_processes(self, size: int) -> None:
        """ValueError for a multirun that a launcher like torchrun started `size` times."""
        if not self.multirun or self.dry_run or size == 1:
            return
        point = " ".join(self.points[0].words) if self.points else "OVERRIDES OF A POINT"
        raise ValueError(
            f"a multirun is started once, not by each of {size} processes: give its points one by "
            f"one, each as torchrun --nproc_per_node={size} {torchrun_words()} {point} "
            "(-m --dry-run lists them)"
        )


def check(arguments: Sequence[str]) -> Command:
    """Composes every point. ValueError, in one line with the choices, for what is no Run.

    Hydra's own message names neither the nearest key nor the choices, and in a multirun it comes
    after the points before it ran.
    """
    dry_run = DRY_RUN in arguments
    arguments = [argument for argument in arguments if argument != DRY_RUN]
    given = _Flags().parse_intermixed_args(arguments)
    overrides.check(given.overrides)
    flags = [argument for argument in arguments if argument not in given.overrides]
    name, lines = overrides.sweep(given.overrides, SWEEPS)
    confs = [CONF, *([Path(given.config_dir)] if given.config_dir else [])]
    lines = [overrides.places(overrides.tasks(line, CONF), confs) for line in lines]
    lines = [[as_typed(override, multirun=given.multirun) for override in line] for line in lines]
    if name and not given.multirun:
        raise ValueError(f"sweep={name} makes several runs: add -m")
    of_hydra = [override for override in given.overrides if override.startswith("hydra")]
    foreign = [o for o in of_hydra if o.startswith("hydra/sweeper=") and o != OURS]
    if given.multirun and foreign:
        if name or dry_run:
            raise ValueError(f"{foreign[0]} has no plan and knows no sweep=NAME: leave it out")
        return Command([*lines[0], *flags], [], "", multirun=True, dry_run=False)
    if given.config_dir:
        of_hydra.append(f"{SEARCHPATH}=[file://{Path(given.config_dir).resolve()}]")
    points = []
    try:
        with hydra.initialize_config_dir(str(CONF), version_base=VERSION):
            for line in lines:
                for chosen in _grid(line, multirun=given.multirun):
                    points.append(Point(tuple(chosen), compose([*of_hydra, *chosen])))
            points = list(_apart(points, of_hydra))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(str(error)) from None
    for point in points:  # of what is typed: an option's list may be longer than a short run
        keys = {key(word) for word in point.words}
        for name_of_list, message in rules.unread(point.run):
            if name_of_list in keys:
                once(message)
        for message in rules.doubtful(point.run):
            once(message)
    points = distinct(points, name)
    for folder in {point.run.folder.parent for point in points}:
        nearest = next(p for p in [folder, *folder.absolute().parents] if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ValueError(f"runs_dir={folder}: {nearest} is no folder we may write to")
    common = [override for override in lines[0] if all(override in line for line in lines)]
    name = name or ("multirun" if given.multirun else "run")
    return Command([*common, *flags], points, name, multirun=given.multirun, dry_run=dry_run)


def _apart(points: Sequence[Point], of_hydra: Overrides) -> Iterator[Point]:
    """The points; exactly named where one name is of several paths, which end alike."""
    paths: dict[Path, set[tuple[str, str]]] = {}
    for point in points:
        paths.setdefault(point.run.folder, set()).add(paths_of(point.run))
    for point in points:
        if len(paths[point.run.folder]) > 1:
            point = Point(point.words, compose([*of_hydra, *point.words], exact=True))
        yield point


class _Flags(argparse.ArgumentParser):
    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("overrides", nargs="*")
        for names in SWITCHES:
            self.add_argument(*names, action="store_true")
        for names in VALUED:
            self.add_argument(*names)
        self.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
        self.add_argument("--info", "-i", nargs="?", choices=INFO)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help and --hydra-help")


def _grid(line: Overrides, *, multirun: bool) -> Iterator[Overrides]:
    """The points of a line: every combination of its alternatives, Hydra's own settings aside."""
    alternatives = []
    for override in parsed([o for o in line if not o.startswith("hydra")]):
        text = str(override.input_line)
        if not override.is_sweep_override():
            alternatives.append([text])
            continue
        if not multirun:
            word = quoted_word(text)
            raise ValueError(f"{text} is a sweep: add -m (a list is [A,B], a comma in text {word})")
        name = text.split("=", 1)[0]
        alternatives.append([f"{name}={value}" for value in override.sweep_string_iterator()])
    yield from map(list, product(*alternatives))
