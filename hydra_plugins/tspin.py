"""Hydra's way to our sweeps: gives the points that are left to a launcher, says what came of it.

Planning and reading folders is tspin.cli.sweep's; which points there are, tspin.cli.command's.
"""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from typing import ClassVar

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from tspin.cli import outcome
from tspin.cli import sweep as sweeps
from tspin.cli.folders import root
from tspin.tools import signals

log = logging.getLogger("tspin")
REASON = 100  # characters


class Points(Sweeper):
    """Runs the points of `plan` that are not done yet.

    plan  set by tspin.cli.run, which has composed and checked every point
    """

    plan: ClassVar[sweeps.Plan]

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        self.serial, self.workers_are_ours = launcher == "basic", launcher == "joblib"
        self.config = config
        self.hydra_context = hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Leaves with 1 if a point failed, with 130 when interrupted, with REQUEUE when preempted.

        arguments  see `plan`
        """
        with outcome.of_work(single=True):
            self._sweep()

    def _sweep(self) -> None:
        plan = self.plan
        todo, failed = plan.to_run(), {}
        log.info("%s\n", plan.describe() if todo else plan.line())
        if todo:
            with sweeps.announced(plan):
                failed = self._launch(todo)
        now = sweeps.plan(plan.name, plan.points)
        log.info("%s", now.summary(failed))
        if failed:
            sys.exit(1)

    def _launch(self, points: Sequence[sweeps.Point]) -> dict[str, str]:
        """-> name of the run -> why, of those that failed"""
        # Workers begin with another search path, and in a checkout nothing is installed.
        paths = [str(root()), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        if not self.serial:
            os.environ["TQDM_DISABLE"] = "1"  # bars of several processes would overwrite each other
        try:
            # Workers of joblib end with this process; other launchers' jobs are a scheduler's.
            seen = nullcontext() if self.serial else sweeps.watched(points)
            with signals.watched(0) if self.workers_are_ours else nullcontext(), seen:
                returns = self.launcher.launch([point.launch_words for point in points], 0)
        except signals.Preempted as stopped:  # not in a point: while other processes work
            log.error("stopped by %s; the same command goes on from here", stopped)
            sys.exit(signals.REQUEUE)
        except Exception as error:  # a worker died: the folders say how far each point is
            line = outcome.one_line(error) if outcome.is_mendable(error) else None
            log.error("error: the launcher failed%s", f": {line}" if line else "",
                      exc_info=None if line else error)  # fmt: skip
            now = sweeps.plan(self.plan.name, points)
            left = {point.run.name for point in now.to_run()}
            return dict.fromkeys(left, _reason(error))
        return {
            point.run.name: _reason(_error(result))
            for point, result in zip(points, returns, strict=True)
            if result.status != JobStatus.COMPLETED
        }


def _error(result: JobReturn) -> BaseException:
    """What a failed point raised, as Hydra gives it: raised again, with a line we have logged."""
    try:
        with redirect_stderr(StringIO()):
            return AssertionError(result.return_value)
    except Exception as error:
        return error


def _reason(error: BaseException) -> str:
    """One line for the table; the whole was logged where it happened."""
    message = str(error).strip() or type(error).__name__
    return textwrap.shorten(message.splitlines()[0], REASON, placeholder=" ...")
