"""A run in W&B: the only importer of wandb, and only when it is wanted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from tspin.tracking import environment
from tspin.tracking.view import AXES, Histogram, Identity, Picture, Rows, Told

# How long the end of a run waits for uploads (s); `wandb sync` sends what is left.
_FINISH_TIMEOUT = 300.0


class AlreadyThere(ValueError):
    """W&B has a run of this id, and it was not to be continued."""


class Wandb:
    """The Backend that is W&B: one W&B run for one run of ours.

    Its axes are metrics of their own, never `step=`: W&B drops a row that goes backwards, and a
    resumed run does.

    folder  everything W&B writes stays below it, in `wandb/`.
    run_id  W&B's id of the run: the same id continues the same run after a restart.
    whole   whether that W&B run has the run from its beginning; else the line about it names what
            brings all of it there.
    resume  "never": an id that the server has is refused (AlreadyThere) instead of continued.
    """

    label = "W&B"

    def __init__(
        self,
        identity: Identity,
        *,
        mode: Literal["online", "offline"],
        folder: Path,
        run_id: str,
        whole: bool = True,
        resume: Literal["allow", "never"] = "allow",
    ):
        self._identity, self._mode = identity, mode
        self._folder, self._id = folder.absolute(), run_id
        self._whole, self._resume = whole, resume
        self._run: Any = None
        self._environment = ExitStack()

    def start(self) -> str:
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
        self._environment.enter_context(environment.defaults(variables))

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
        return self._where(online=online)

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

    def told(self) -> Told:
        """Nothing: an offline launch has a W&B run of its own (sessions), and the server has no
        order of steps to ask it for."""
        return Told()

    def log(self, axis: str, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({axis: step} | {key: _shown(value) for key, value in values.items()})

    def alert(self, kind: str, text: str) -> None:
        """By mail or Slack, as the user's settings at W&B say."""
        self._run.alert(title=kind, text=text)

    def finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        with self._environment:
            if run is not None:
                run.finish(exit_code=exit_code)


def logged_in() -> bool:
    """Whether there is a key for W&B's server; asks nobody for one."""
    import wandb

    return bool(wandb.login(prompt=False, verify=False))


def _shown(value: Any) -> Any:
    """A Value as W&B has it."""
    import wandb

    match value:
        case Histogram():
            return wandb.Histogram(np_histogram=(value.counts, value.edges))
        case Rows():
            return wandb.Table(columns=value.columns, data=value.cells, allow_mixed_types=True)
        case Picture():
            return wandb.Image(value.pixels)
    return value
