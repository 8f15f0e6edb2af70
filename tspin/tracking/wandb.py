"""A run in W&B, a view of it: `Tracker`. Everything it shows can be rebuilt from the run's files.

The only importer of wandb, and only when it is wanted. A failure of W&B never stops training.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from tspin.objectives.contingency import CELLS, TIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("tspin")

# The axis of each group of keys, GROUP/KEY.
AXES = {
    "train/step": ("train",),
    "iteration": ("iteration", "contingency", "samples"),
    "eval/iterations": ("eval",),
}

# How long the end of a run waits for uploads (s); `wandb sync` sends what is left.
_FINISH_TIMEOUT = 300.0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What wandb.init is told of a run, so that a list of many runs is readable.

    group     what runs that differ by seed alone have in common
    job_type  the objective, as the tables print it
    config    dotted key -> value
    """

    project: str
    entity: str | None
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]


class View(Protocol):
    """What a run's numbers are told to; the same numbers in the same order, live or replayed."""

    def log_step(self, row: Mapping[str, Any]) -> None: ...
    def log_iteration(self, t: int, scalars: Mapping[str, Any]) -> None: ...
    def log_contingency(self, t: int, split: str, counts: Mapping[str, int]) -> None: ...
    def log_samples(self, t: int, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def log_evaluation(self, num_iterations: int, scalars: Mapping[str, Any]) -> None: ...


class AlreadyThere(ValueError):
    """W&B has a run of this id, and it was not to be continued."""


class Tracker:
    """The View that is W&B: one W&B run for one run of ours; mode "none" does nothing at all.

    Axes, never `step=` (W&B drops a row that goes backwards, and a resumed run does):
        train/*                                against train/step, counted over all iterations
        iteration/*, contingency/*, samples/*  against iteration
        eval/*                                 against eval/iterations: done before it, 0 at first

    folder  everything W&B writes stays below it, in `wandb/`.
    run_id  W&B's id of the run: the same id continues the same run after a restart.
    whole   whether that W&B run has the run from its beginning; else the line about it names what
            brings all of it there.
    resume  "never": an id that the server has is refused (AlreadyThere) instead of continued.
    strict  failures travel. Otherwise one warning, and W&B is off: it never stops training.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        mode: Literal["online", "offline", "none"],
        folder: Path,
        run_id: str,
        whole: bool = True,
        resume: Literal["allow", "never"] = "allow",
        strict: bool = False,
    ):
        self._identity, self._mode = identity, mode
        self._folder, self._id = folder.absolute(), run_id
        self._whole, self._resume, self._strict = whole, resume, strict
        self._run: Any = None
        self._live = False  # whether W&B still gets what is logged
        self._failed = False
        self._set_variables: list[str] = []

    def __enter__(self) -> Tracker:
        if self._mode != "none":
            try:
                with self._never_stop_training():
                    self._start()
                    self._live = True
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
        renamed = {"global_step": "step", "step": "iteration_step"}
        self._log({f"train/{renamed.get(key, key)}": value for key, value in row.items()})

    def log_iteration(self, t: int, scalars: Mapping[str, Any]) -> None:
        """Numbers of iteration t as iteration/<key>."""
        self._log({"iteration": t} | {f"iteration/{k}": v for k, v in scalars.items()})

    def log_contingency(self, t: int, split: str, counts: Mapping[str, int]) -> None:
        """The contingency table after iteration t: scalars, a W&B table and a heat map.

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
        figure = contingency_figure(counts, f"{split}, after iteration {t}")
        figure.canvas.draw()
        # (height, width, 4) uint8: wandb.Image takes a Figure only where pyplot is imported.
        pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]  # Agg has it
        with self._never_stop_training():
            import wandb

            views = {"table": _wandb_table(rows), "heat_map": wandb.Image(pixels)}
            values = {key: counts[key] for key in (*CELLS, *TIES) if key in counts} | views
            self._log({"iteration": t} | {f"contingency/{split}/{k}": v for k, v in values.items()})

    def log_samples(self, t: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Readable rows (prompt and responses) after iteration t, as the table samples/rows."""
        if self._live:
            with self._never_stop_training():
                self._log({"iteration": t, "samples/rows": _wandb_table(rows)})

    def log_evaluation(self, num_iterations: int, scalars: Mapping[str, Any]) -> None:
        """What the policy after that many iterations is worth, as eval/<key>."""
        axis = {"eval/iterations": num_iterations}
        self._log(axis | {f"eval/{key}": value for key, value in scalars.items()})

    def finish(self, exit_code: int) -> None:
        """End the W&B run, failed unless the exit code is 0. A second call does nothing."""
        run, self._run, self._live = self._run, None, False
        try:
            if run is not None:
                with self._never_stop_training():
                    run.finish(exit_code=exit_code)
        finally:
            for variable in self._set_variables:
                os.environ.pop(variable, None)
            self._set_variables = []

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK):  # else wandb goes to the system's temporary folder
            raise PermissionError(f"{self._folder} is not writable")
        online = self._mode == "online"
        # Staged tables and service logs go to the home directory unless told otherwise, and
        # reports on wandb itself to its makers, offline too.
        below = str(self._folder / "wandb")
        variables = {"WANDB_DATA_DIR": below, "WANDB_CACHE_DIR": below}
        if not online:
            variables["WANDB_ERROR_REPORTING"] = "false"
        self._set_variables = [name for name in variables if name not in os.environ]
        os.environ.update({name: variables[name] for name in self._set_variables})

        import wandb

        # init() would ask on a terminal, and wait for ever where nobody reads it.
        if online and wandb.run is None and not logged_in():
            raise PermissionError("no API key; run `wandb login`, or set track.wandb=offline")
        try:
            self._run = wandb.init(
                mode="online" if online else "offline",
                dir=self._folder,
                id=self._id,
                resume=self._resume,
                # By default a second init() in this process (Hydra multirun) returns the first run,
                # if that was left open, with the first run's config.
                reinit="finish_previous",
                **vars(self._identity),
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    # Beyond the configuration W&B gets no code, git remote, host name, user
                    # name, path or command line: the run's own files say what made it.
                    save_code=False,
                    disable_code=True,
                    disable_git=True,
                    x_disable_meta=True,
                    host="",
                    finish_timeout=_FINISH_TIMEOUT,
                ),
            )
        except wandb.Error as error:
            if self._resume == "never" and "already exists" in str(error):
                raise AlreadyThere(f"W&B has run {self._id} already") from error
            raise
        for axis, groups in AXES.items():
            self._run.define_metric(axis)
            for group in groups:
                self._run.define_metric(f"{group}/*", step_metric=axis)
        log.info("W&B: %s", self._where(online=online))

    def _where(self, *, online: bool) -> str:
        """The address of the W&B run, or the commands that bring it to the server."""
        sync = f"wandb sync {shlex.quote(str(Path(self._run.dir).parent))}"
        replay = f"python -m analysis wandb_sync runs={shlex.quote(str(self._folder))}"
        match online, self._whole:
            case True, True:
                return str(self._run.url)
            case True, False:
                return f"{self._run.url} from here on; all of the run, once it is done: {replay}"
            case False, True:
                return f"offline; to upload: {sync}"
            case _:
                return f"offline; all of the run, once it is done: {replay}; from here on: {sync}"

    def _log(self, values: dict[str, Any]) -> None:
        if self._live:
            with self._never_stop_training():
                self._run.log(values)

    @contextmanager
    def _never_stop_training(self) -> Iterator[None]:
        """Turn any failure inside into one warning and switch W&B off for the rest of the run."""
        if self._strict:
            yield
            return
        try:
            yield
        # The one broad except: the view may fail in any way (network, login, full disk, service
        # killed, wandb not installed), and none of them is worth the training it would stop.
        except Exception as error:
            if not self._failed:
                log.warning(
                    "W&B failed (%s: %s) and is off for the rest of this run; training goes on, "
                    "and the files of the run keep the full record",
                    type(error).__name__,
                    error,
                )
            self._failed, self._live = True, False


def logged_in() -> bool:
    """Whether there is a key for W&B's server; asks nobody for one."""
    import wandb

    return bool(wandb.login(prompt=False, verify=False))


def contingency_figure(counts: Mapping[str, int], title: str) -> Figure:
    """Heat map of CELLS: reward in rows, log-likelihood in columns, count and share in each cell.

    Built without pyplot: no global state, nothing to close, no display needed.
    """
    # Imported here: runs without W&B should not pay for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sides = ("higher", "not higher")
    cell_at = {sides_of: cell for cell, sides_of in CELLS.items()}
    grid = [[counts[cell_at[reward, logp]] for logp in sides] for reward in sides]
    total = sum(map(sum, grid))

    figure = Figure(figsize=(4.8, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=max(total, 1))
    for row, line in enumerate(grid):
        for column, count in enumerate(line):
            share = count / total if total else 0.0
            colour = "white" if share > 0.5 else "black"  # readable on dark blue and on white
            text = f"{count}\n{share:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    axes.set_xticks([0, 1], sides)
    axes.set_yticks([0, 1], sides, rotation=90, va="center")
    axes.set_xlabel("log-likelihood of annotated, against synthetic")
    axes.set_ylabel("reward of annotated, against synthetic")
    ties = ", ".join(f"{key.removeprefix('tied_')} {counts[key]}" for key in TIES if key in counts)
    axes.set_title(f"{title}\n{total} rows" + (f"; equal: {ties}" if ties else ""), fontsize=11)
    return figure


def _wandb_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    columns = dict.fromkeys(key for row in rows for key in row)
    data = [[row.get(key) for key in columns] for row in rows]
    return wandb.Table(columns=[*columns], data=data, allow_mixed_types=True)
