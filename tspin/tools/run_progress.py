"""How far a whole run is: a bar above that of the stage, or lines in a log, with the time left.

A log has a line every LOG_SECONDS at least, whatever a stage takes for one unit of its work.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tspin.tools import activity
from tspin.tools.terminal import LOG_SECONDS, duration

log = logging.getLogger("tspin")
BAR = "{desc} |{bar:20}| {n_fmt} of {total_fmt} iterations{postfix}"
REDRAWN = 1.0  # seconds between two looks at the clock


class RunProgress:
    """Iterations of a run that are done, the time that is left, the last number that is known.

    clock  seconds
    """

    def __init__(
        self, total: int, *, initial: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done, self.number = total, initial, ""
        self._clock, self._started = clock, clock()
        self._began = self._started
        self._played: list[float] = []  # seconds of each iteration of this launch
        self.changed: Callable[[], None] = lambda: None

    def finish_iteration(self, *, played: bool = True) -> None:
        """played: False where it was there already, or linked: that says nothing of the others"""
        now = self._clock()
        if played:
            self._played.append(now - self._began)
        self._began, self.done = now, self.done + 1
        self.changed()

    def show(self, number: str) -> None:
        """Beside the bar, until there is another: "accuracy 42.0%"."""
        self.number = number
        self.changed()

    @property
    def seconds_left(self) -> float | None:
        """By the mean of the iterations that were played; None before there is one, and where the
        one being played has taken longer than all should have."""
        if not self._played:
            return None
        mean = sum(self._played) / len(self._played)
        left = mean * (self.total - self.done) - (self._clock() - self._began)
        return left if left > 0 else None

    @property
    def estimate(self) -> str | None:
        """A line for the whole launch, where its first iteration has just been played."""
        left = self.seconds_left
        if left is None or len(self._played) > 1 or self.done == self.total:
            return None
        whole = self._clock() - self._started + left
        return f"about {duration(left)} left, {duration(whole)} in all, by the first iteration"

    @property
    def facts(self) -> list[str]:
        left = self.seconds_left
        time_left = [] if left is None or self.done == self.total else [f"{duration(left)} left"]
        return [*time_left, *filter(None, [self.number])]

    def __str__(self) -> str:
        return ", ".join([f"run: {self.done} of {self.total} iterations", *self.facts])


@contextmanager
def run_progress(total: int, *, initial: int = 0, show: bool = True) -> Iterator[RunProgress]:
    """Around the iterations of a run. show: False on every process but the first"""
    run = RunProgress(total, initial=initial)
    if not show:
        yield run
        return
    with ExitStack() as stack:
        if sys.stderr.isatty():
            stack.enter_context(logging_redirect_tqdm())
            bar = stack.enter_context(
                tqdm(total=total, desc="run", initial=initial, bar_format=BAR, dynamic_ncols=True)
            )

            def redraw() -> None:
                bar.n = run.done
                bar.set_postfix_str(", ".join(run.facts))  # draws it

            run.changed = redraw
            stack.enter_context(repeating(redraw, every=REDRAWN))
        else:
            lines = QuietLog(run)
            log.addFilter(lines)
            stack.callback(log.removeFilter, lines)
            stack.enter_context(repeating(lines.look, every=REDRAWN))
        yield run


class QuietLog(logging.Filter):
    """A filter of our log that lets all pass, and says how far a run is where none has passed.

    clock  seconds
    """

    def __init__(self, run: RunProgress, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._run, self._clock, self._last = run, clock, clock()

    def filter(self, record: logging.LogRecord) -> bool:
        self._last = self._clock()
        return True

    def look(self) -> None:
        """A line, if there was none for LOG_SECONDS."""
        if self._clock() - self._last >= LOG_SECONDS:
            log.info("%s", "; ".join(filter(None, [str(self._run), _stage()])))


def _stage() -> str:
    """What is being done, and how far that is."""
    stage, waiting, _ = activity.current()
    if waiting is not None:
        return f"waiting for {waiting}"
    if stage is None:
        return ""
    return f"{stage.stage}: {stage.done}/{stage.total} {stage.unit}s"


@contextmanager
def repeating(
    call: Callable[[], None],
    *,
    every: float,
    wait: Callable[[float], bool] | None = None,
) -> Iterator[None]:
    """Inside, a thread does `call` every so many seconds.

    wait  waits for so many seconds. -> whether to end
    """
    ended = threading.Event()
    wait = wait or ended.wait

    def repeat() -> None:
        while not (ended.is_set() or wait(every)):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
