"""TensorBoard, MLflow, Trackio rebuilt from run folders that they saw in part, or not.

    python -m analysis tracker_sync to=tensorboard|mlflow|trackio [runs=RUNS] [out=FOLDER]

runs: a folder of runs, or one run. Each becomes one run of the tracker, with all its numbers once,
in one store for all of them: FOLDER/TRACKER (MLflow and Trackio: MLFLOW_TRACKING_URI, TRACKIO_DIR
where they are set). The same content is written once. W&B has wandb_sync.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.options import command
from analysis.wandb.sync import Content, each_run, id_of, tell
from tspin.runs.artifacts import RunDir
from tspin.tools.files import remove
from tspin.tools.spelling import unknown
from tspin.tracking import backends, replay

DEFAULTS = {"to": "tensorboard", "runs": "runs", "out": "report"}


def sync(folder: RunDir, *, to: str, out: Path) -> str:
    """One run of the tracker `to`, of one run folder. -> what became of it, in words

    Everything is read before anything is written: a ValueError names a file that is not readable.
    """
    content, identity = Content(), replay.identity(folder)
    complete = replay.run(folder, content)
    if not content.num_rows:
        return "nothing to tell yet"
    run_id = id_of(folder, identity, content)
    store, written = out / to, out / f"{to}-synced" / f"{run_id}.json"
    if written.exists():
        return f"already in {store}"
    if to == "tensorboard":  # a folder a run; another content of it takes its place
        store /= folder.path.name
        remove(store)
    backend = backends.local(to, identity, store, run_id, fresh=True)
    return tell(folder, identity, backend, complete=complete, written=written)


def main(arguments: Sequence[str]) -> None:
    with command(__doc__, arguments, **DEFAULTS) as options:
        to = options["to"]
        if to not in backends.LOCAL:
            raise ValueError(unknown(f"tracker to={to}", to, backends.LOCAL))
        each_run(options["runs"], lambda folder: sync(folder, to=to, out=Path(options["out"])))
