"""The View that trackers are: what a run says, told to every backend it is tracked by.

A failure of a backend is one warning and switches that backend off: none stops training. All that
they show can be rebuilt from the run's files (replay).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tspin.objectives.contingency import CELLS, TIES
from tspin.tracking.figures import contingency_pixels
from tspin.tracking.view import EVALUATION, ITERATION, STEP, Backend, Histogram, Picture, Rows, Told

log = logging.getLogger("tspin")


class Tracker:
    """A run as its backends see it; without any it does nothing at all.

    Axes, never the libraries' own counters (a resumed run goes back on them):
        train/*                                against train/step, counted over all iterations
        iteration/*, contingency/*, samples/*  against iteration
        eval/*                                 against eval/iterations: done before it, 0 at first
    A step that an earlier launch has told a backend is not told again: what a killed run repeats
    stands there once.

    strict  failures travel. Otherwise one warning, and the backend is off.
    """

    def __init__(self, backends: Sequence[Backend], *, strict: bool = False) -> None:
        self._backends, self._strict = list(backends), strict
        self._live: list[tuple[Backend, Told]] = []  # that still get what is logged
        self._failed: set[str] = set()
        self._alerted: set[str] = set()

    def __enter__(self) -> Tracker:
        for backend in self._backends:
            try:
                with self._guarded(backend):
                    where = backend.start()
                    self._live.append((backend, backend.told()))
                    log.info("%s: %s", backend.label, where)
            except BaseException:
                self.finish(exit_code=1)  # what was begun of it
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(exit_code=0 if kind is None else 1)

    def log_step(self, row: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl as train/<key>; its `global_step` is the axis train/step.

        `step`, which restarts with every iteration, becomes train/iteration_step.
        """
        renamed = {"step": "iteration_step"}
        values = {renamed.get(key, key): row[key] for key in row if key != "global_step"}
        self._log(STEP, row["global_step"], {f"train/{key}": values[key] for key in values})

    def log_iteration(self, t: int, scalars: Mapping[str, Any]) -> None:
        """Numbers of iteration t as iteration/<key>."""
        self._log(ITERATION, t, {f"iteration/{key}": value for key, value in scalars.items()})

    def log_contingency(self, t: int, split: str, counts: Mapping[str, int]) -> None:
        """The contingency table after iteration t: scalars, a table and a heat map.

        split   "train" or "heldout"
        counts  rows in each of CELLS, and TIES where they were counted
        """
        if not self._live:
            return
        total = sum(counts[cell] for cell in CELLS)
        rows = [
            {"cell": cell, "reward": reward, "logp": logp, "count": counts[cell]}
            | {"share": counts[cell] / total if total else 0.0}
            for cell, (reward, logp) in CELLS.items()
        ]
        values: dict[str, Any] = {key: counts[key] for key in (*CELLS, *TIES) if key in counts}
        pixels = contingency_pixels(counts, f"{split}, after iteration {t}")
        values |= {"table": Rows(rows), "heat_map": Picture(pixels)}
        self._log(ITERATION, t, {f"contingency/{split}/{key}": v for key, v in values.items()})

    def log_histograms(self, t: int, values: Mapping[str, Sequence[float]]) -> None:
        """Distributions after iteration t: "train/rewards/annotated" and the like, nats."""
        if self._live:
            drawn = {f"iteration/histogram/{key}": Histogram.of(values[key]) for key in values}
            self._log(ITERATION, t, drawn)

    def log_samples(self, t: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Prompts with their responses and rewards after iteration t, as the table samples/rows."""
        self._log(ITERATION, t, {"samples/rows": Rows(rows)})

    def log_evaluation(self, num_iterations: int, scalars: Mapping[str, Any]) -> None:
        """What the policy after that many iterations is worth, as eval/<key>."""
        values = {f"eval/{key}": value for key, value in scalars.items()}
        self._log(EVALUATION, num_iterations, values)

    def alert(self, kind: str, text: str) -> None:
        """What is wrong with the run, in plain words; the first of a kind counts."""
        if kind not in self._alerted:
            self._alerted.add(kind)

            def alert(backend: Backend, told: Told) -> None:
                if kind not in told.alerts:
                    backend.alert(kind, text)

            self._each(alert)

    def finish(self, exit_code: int) -> None:
        """End the runs, failed unless the exit code is 0. A second call does nothing."""
        backends, self._backends, self._live = self._backends, [], []
        for backend in backends:
            with self._guarded(backend):
                backend.finish(exit_code)

    def _log(self, axis: str, step: int, values: Mapping[str, Any]) -> None:
        def log_new(backend: Backend, told: Told) -> None:
            new = {key: value for key, value in values.items() if step > told.steps.get(key, -1)}
            if new:
                backend.log(axis, step, new)

        self._each(log_new)

    def _each(self, call: Callable[[Backend, Told], None]) -> None:
        for backend, told in tuple(self._live):
            with self._guarded(backend):
                call(backend, told)

    @contextmanager
    def _guarded(self, backend: Backend) -> Iterator[None]:
        """Turn any failure inside into one warning and switch the backend off."""
        if self._strict:
            yield
            return
        try:
            yield
        # The one broad except: the view may fail in any way (network, login, full disk, service
        # killed, library not installed), and none of them is worth the training it would stop.
        except Exception as error:
            if backend.label not in self._failed:
                log.warning(
                    "%s failed (%s: %s) and is off for the rest of this run; training goes on, "
                    "and the files of the run keep the full record",
                    backend.label,
                    type(error).__name__,
                    error,
                )
            self._failed.add(backend.label)
            self._live = [each for each in self._live if each[0] is not backend]
