"""Which trackers a run has: of its configuration, each with its folder below that of the run."""

from __future__ import annotations

from pathlib import Path

from tspin.config.run import TrackConfig
from tspin.runs.artifacts import RunDir
from tspin.tools.files import read_json
from tspin.tracking import replay
from tspin.tracking.mlflow import MLflow
from tspin.tracking.tensorboard import TensorBoard
from tspin.tracking.trackio import Trackio
from tspin.tracking.view import Backend, Identity
from tspin.tracking.wandb import Wandb

LOCAL = ("tensorboard", "mlflow", "trackio")  # keep what they show in files of the run's folder


def of_launch(
    track: TrackConfig, folder: RunDir, wandb_id: str, *, whole: bool = True
) -> list[Backend]:
    """Those of a launch. wandb_id, whole: as sessions.begin gives them"""
    identity = replay.identity(folder)
    backends: list[Backend] = []
    if track.wandb != "none":
        backends.append(
            Wandb(identity, mode=track.wandb, folder=folder.path, run_id=wandb_id, whole=whole)
        )
    names = [name for name in LOCAL if getattr(track, name)]
    run_id = str(read_json(folder.tracking)["id"])
    return [*backends, *(local(name, identity, folder.tracker(name), run_id) for name in names)]


def local(
    name: str, identity: Identity, place: Path, run_id: str, *, fresh: bool = False
) -> Backend:
    """The tracker of LOCAL of that name, with its store in a folder.

    fresh  begins a run anew instead of going on with the one of that id or name
    """
    if name == "tensorboard":
        return TensorBoard(identity, folder=place)
    if name == "mlflow":
        return MLflow(identity, folder=place, run_id=run_id, fresh=fresh)
    assert name == "trackio", name
    return Trackio(identity, folder=place, fresh=fresh)
