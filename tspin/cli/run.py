"""`tspin run`, and main.py: compose the configuration, check it, run self-play.

tspin run [GROUP=OPTION ...] [KEY=VALUE ...]        one run
tspin run -m loss=sft,tspin seed=0,1,2              every combination
tspin run -m sweep=alpha_beta                       the grids of sweeps/alpha_beta.yaml
tspin run --help
"""

from __future__ import annotations

import importlib
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tspin.cli import outcome, sweep
from tspin.cli.command import check
from tspin.cli.compose import VERSION, typed
from tspin.cli.folders import CONF, program, recorded
from tspin.distributed import launcher
from tspin.selfplay import banner
from tspin.tools import signals
from tspin.tools.log import once

REPORT = re.compile(r"\+{0,2}track\.report=true", re.IGNORECASE)

log = logging.getLogger("tspin")


@hydra.main(version_base=VERSION, config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """One point: a single run, or one of a multirun's."""
    hydra_cfg = HydraConfig.get()
    single = hydra_cfg.mode == RunMode.RUN
    with outcome.of_work(single=single) as work:
        run = work.run = typed(cfg, hydra_cfg)
        if not single:
            log.info("--- %s", run.name)
        if single and banner.is_plain(run):
            once(banner.beginning(run))
        # torch and transformers: not before the configuration is right
        from tspin.runs.artifacts import RunDir
        from tspin.selfplay import algorithm
        from tspin.tracking import summary

        words = sys.argv[1:] if single else hydra_cfg.overrides.task
        with signals.watched(run.compute.grace_seconds):
            rows = algorithm.run(run, command=[*recorded(), *words], alone=single)
        end = summary.text(RunDir(run.folder), rows, alone=single)
        log.info("\n%s\n\nfiles: %s", end, run.folder)
        # a multirun has many, and `tspin report` shows them together
        if run.track.report and (single or any(map(REPORT.fullmatch, words))):
            page = write_report(run.folder)
            if page is not None:
                watch = shlex.join([*program().split(), "watch", str(run.folder.parent)])
                log.info("page:  %s\nlive:  %s", page, watch)


def write_report(folder: Path) -> Path | None:
    """report.html of a finished run, by the main process alone. What goes wrong with it is a line
    of the log: the run is done. -> the page, or None"""
    rank, _ = launcher.launched()
    if rank != 0:
        return None
    try:
        run_page = importlib.import_module("analysis.report.run_page")
    except ImportError as error:
        log.warning("no report.html: %s; track.report=false asks for none", error)
        return None
    page: Path | None = run_page.at_end(folder)
    return page


def main(arguments: Sequence[str]) -> None:
    rank, size = launcher.launched()
    outcome.configure_logging()
    if rank != 0:  # one process of those that a launcher started speaks for all
        log.setLevel(logging.CRITICAL)
    try:
        command = check(arguments)
        command.check_processes(size)
        if command.points and (command.dry_run or command.multirun):
            plan = sweep.plan(command.name, command.points)
    except Exception as error:
        outcome.refuse(error)
    if command.dry_run:
        log.info("%s", plan.describe())
        return
    if command.multirun and command.points:
        # Not at the top: when Hydra first looks for plugins (in check) it executes them anew.
        from hydra_plugins.tspin import Points

        Points.plan = plan
    sys.argv[1:] = command.arguments
    try:
        job()
    except BrokenPipeError:  # of --help and its like: a job has an end of its own
        sys.exit(outcome.nobody_reads())
