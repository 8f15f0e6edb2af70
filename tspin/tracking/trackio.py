"""A run in Trackio, a local store of files: the only importer of trackio, and only when wanted."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tspin.tracking import environment
from tspin.tracking.view import Histogram, Identity, Picture, Rows, Told

STORE = "TRACKIO_DIR"


class Trackio:
    """The Backend that is Trackio: one of its runs for one run of ours, in `folder` unless
    TRACKIO_DIR says where. A later launch goes on with the run of that name, unless it is fresh.
    """

    label = "Trackio"

    def __init__(self, identity: Identity, *, folder: Path, fresh: bool = False) -> None:
        self._identity, self._folder = identity, folder.absolute()
        self._resume = "never" if fresh else "allow"
        self._library: Any = None
        self._run: Any = None
        self._environment = ExitStack()

    def start(self) -> str:
        if STORE not in os.environ:
            self._environment.enter_context(environment.defaults({STORE: str(self._folder)}))
            _forget()
        import trackio

        self._library, about = trackio, self._identity
        with redirect_stdout(StringIO()):  # it prints what it does; ours are the lines of a log
            self._run = trackio.init(
                project=about.project,
                name=about.name,
                group=about.group,
                config=about.config | {"objective": about.job_type, "tags": list(about.tags)},
                resume=self._resume,
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        store = shlex.quote(os.environ[STORE])
        return f"{STORE}={store} trackio show --project {shlex.quote(about.project)}"

    def told(self) -> Told:
        from trackio.sqlite_storage import SQLiteStorage

        project, name = self._identity.project, self._identity.name
        rows = SQLiteStorage.get_logs(project, name)
        steps: dict[str, int] = {}
        for row in rows:
            steps |= {key: max(row["step"], steps.get(key, 0)) for key in row}
        alerts = {alert["title"] for alert in SQLiteStorage.get_alerts(project, name)}
        return Told(steps, frozenset(alerts))

    def log(self, axis: str, step: int, values: Mapping[str, Any]) -> None:
        shown = {key: self._shown(value) for key, value in values.items()}
        self._run.log({axis: step} | shown, step=step)

    def alert(self, kind: str, text: str) -> None:
        with redirect_stdout(StringIO()):
            self._run.alert(title=kind, text=text)

    def finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        with self._environment:
            if run is not None:
                with redirect_stdout(StringIO()):
                    self._library.finish()

    def _shown(self, value: Any) -> Any:
        """A Value as Trackio has it."""
        match value:
            case Histogram():
                histogram = (value.counts.tolist(), value.edges.tolist())
                return self._library.Histogram(np_histogram=histogram)
            case Rows():
                return self._library.Table(columns=value.columns, data=value.cells)
            case Picture():
                return self._library.Image(value.pixels)
        return value


def _forget() -> None:
    """Trackio reads TRACKIO_DIR when it is imported, and a multirun has a folder for every run."""
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        del sys.modules[name]
