"""A run in MLflow: the only importer of mlflow, and only when it is wanted.

Without MLFLOW_TRACKING_URI it is a store of files in the run's folder. MLflow has no histograms:
they are artifacts, like tables and pictures.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tspin.tracking import environment
from tspin.tracking.view import Histogram, Identity, Picture, Rows, Told

URI = "MLFLOW_TRACKING_URI"
RUN_ID = "tspin.run_id"  # the tag by which a later launch goes on with the same run
ALERT = "alert."  # before its kind, in the name of a tag
MOST_PARAMETERS = 100  # a call


class MLflow:
    """The Backend that is MLflow: one MLflow run for one run of ours.

    folder  of the store of files
    run_id  the same id continues the same run after a restart, unless fresh
    """

    label = "MLflow"

    def __init__(
        self, identity: Identity, *, folder: Path, run_id: str, fresh: bool = False
    ) -> None:
        self._identity, self._folder, self._id = identity, folder.absolute(), run_id
        self._fresh = fresh
        self._client: Any = None
        self._run: str | None = None
        self._environment = ExitStack()

    def start(self) -> str:
        own = URI not in os.environ
        # MLflow reports how it is used to its makers, and opens stores of files when told to.
        variables = {"MLFLOW_DISABLE_TELEMETRY": "true"}
        if own:
            variables["MLFLOW_ALLOW_FILE_STORE"] = "true"
        self._environment.enter_context(environment.defaults(variables))

        from mlflow.tracking import MlflowClient

        uri = self._folder.as_uri() if own else os.environ[URI]
        self._client = MlflowClient(tracking_uri=uri)
        self._run = self._resumed_or_new(self._experiment())
        if not own:
            return f"run {self._run} of {uri}"
        return f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {uri}"

    def told(self) -> Told:
        """Of metrics and alerts; an artifact of a step takes the place of the one before."""
        data = self._client.get_run(self._run).data
        steps = {
            key: max(metric.step for metric in self._client.get_metric_history(self._run, key))
            for key in data.metrics
        }
        alerts = {tag.removeprefix(ALERT) for tag in data.tags if tag.startswith(ALERT)}
        return Told(steps, frozenset(alerts))

    def log(self, axis: str, step: int, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now, metrics = int(1000 * time.time()), []
        for key, value in values.items():
            match value:
                case Histogram():
                    facts = {"counts": value.counts.tolist(), "edges": value.edges.tolist()}
                    self._client.log_dict(self._run, facts, f"{key}/{step}.json")
                case Rows():
                    columns = dict(zip(value.columns, zip(*value.cells, strict=True), strict=True))
                    table = {name: [*cells] for name, cells in columns.items()}
                    self._client.log_dict(self._run, table, f"{key}/{step}.json")
                case Picture():
                    self._client.log_image(self._run, value.pixels, f"{key}/{step}.png")
                case str():
                    self._client.log_text(self._run, value, f"{key}/{step}.txt")
                case _:
                    metrics.append(Metric(key, float(value), now, step))
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def alert(self, kind: str, text: str) -> None:
        self._client.set_tag(self._run, f"{ALERT}{kind}", text)

    def finish(self, exit_code: int) -> None:
        with self._environment:
            if self._run is not None:
                status = "FINISHED" if exit_code == 0 else "FAILED"
                self._client.set_terminated(self._run, status)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self._identity.project
        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run has made it meanwhile
                known = self._client.get_experiment_by_name(name)
                if known is None:
                    raise
        return str(known.experiment_id)

    def _resumed_or_new(self, experiment: str) -> str:
        query = f"tags.`{RUN_ID}` = '{self._id}'"
        known = [] if self._fresh else self._client.search_runs([experiment], query, max_results=1)
        for run in known:
            self._client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        about = self._identity
        tags = {RUN_ID: self._id, "group": about.group, "objective": about.job_type}
        tags |= {"tags": ", ".join(about.tags)}
        run = self._client.create_run(experiment, tags=tags, run_name=about.name)
        self._record_config(run.info.run_id)
        return str(run.info.run_id)

    def _record_config(self, run: str) -> None:
        from mlflow.entities import Param

        parameters = iter([Param(key, str(value)) for key, value in self._identity.config.items()])
        while batch := [*itertools.islice(parameters, MOST_PARAMETERS)]:
            self._client.log_batch(run, params=batch)
