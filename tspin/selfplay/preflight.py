"""Before a run begins or goes on: is all in reach, and is it the run that its folder holds?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

from tspin.config import auto
from tspin.config.identity import IDENTITY_FREE
from tspin.config.load import dump
from tspin.config.run import Run
from tspin.data import annotated, schemas, shift
from tspin.data.annotated import Dataset
from tspin.policy import dtypes, inspection, kernels, model_files, products, quantization, weights
from tspin.runs import benchmarks, mirror, start
from tspin.runs.artifacts import RunDir
from tspin.runs.start import first_iteration, start_from
from tspin.sampling import engines
from tspin.selfplay.inputs import Inputs, annotated_lengths, prompts_digest
from tspin.stages import benchmark
from tspin.tools.files import read_json, write_json
from tspin.tools.parquet import each_row


def look(cfg: Run, folder: RunDir) -> bool:
    """Checks all that is known before the folder is held. -> whether nothing is left to do"""
    check_reachable(cfg)
    mirror.fetch(cfg.sync, folder, iterations=cfg.selfplay.iterations)
    played = [folder.iteration(t) for t in range(first_iteration(cfg), cfg.selfplay.iterations)]
    complete = all(out.done.exists() for out in played) and not any(
        benchmarks.due(out, cfg) for out in (folder.base, *played)
    )
    if not complete:
        _inspect_model(cfg)
        benchmark.check(cfg.evals)
    return complete


def claim(cfg: Run, folder: RunDir) -> Run:
    """The folder, held, is this run's: ValueError where it is another's, or was changed since.

    More iterations than it was begun with are the same run: none depends on how many there are.
    -> cfg, with what `auto` came to when the run began
    """
    cfg = start.as_begun(cfg, folder)
    if cfg.data.shift.timed and folder.data.exists() and "parts" in read_json(folder.data):
        rows = each_row(folder.prompts, "split", "part")
        parts = (row["part"] for row in rows if row["split"] == "train")
        shift.check(parts, cfg.data.shift, cfg.selfplay.iterations)
    folder.claim(dump(cfg), free=IDENTITY_FREE, grows="selfplay.iterations")
    for t in folder.iterations():  # who reads them later would not notice
        folder.iteration(t).check()
    return cfg


def hold_out(cfg: Run, folder: RunDir, rows: Callable[[], Dataset]) -> Run:
    """ValueError for rows that are no run, before a model is fetched. -> cfg, its number of
    held-out prompts settled

    rows  reads those of cfg.data
    """
    data = rows()
    if auto.HELDOUT not in cfg.unsettled:
        return cfg
    number = len(data.heldout)
    cfg = start.settle(cfg, folder, auto.HELDOUT, number, prompts=data.num_prompts)
    return claim(cfg, folder)


def scale(cfg: Run, folder: RunDir) -> Run:
    """-> cfg, its alpha settled by the responses that are trained on."""
    if auto.ALPHA not in cfg.unsettled:
        return cfg
    lengths = annotated_lengths(each_row(folder.prompts, "split", "annotated_ids"))
    tokens = fmean(lengths)
    cfg = start.settle(
        cfg, folder, auto.ALPHA, auto.alpha(tokens), mean_tokens=tokens, responses=len(lengths)
    )
    return claim(cfg, folder)


def check_reachable(cfg: Run) -> None:
    """ValueError naming everything that is out of reach, before anything is loaded."""
    failures = []
    for check in (
        partial(dtypes.resolve, cfg.compute, cfg.optim.precision),
        partial(weights.check_reachable, cfg.model),
        partial(engines.check, cfg),
        partial(quantization.check, cfg.model, cfg.compute),
        partial(kernels.check, cfg.compute),
        partial(products.resolve, cfg.compute),
        partial(_check_data, cfg),
    ):
        try:
            check()
        except ValueError as error:
            failures.append(str(error))
    if failures:
        raise ValueError("; ".join(failures))


def fetch(cfg: Run) -> Path:
    """The folder of theta_0; what had to be downloaded, built or converted is checked now."""
    checked = weights.on_disk(cfg.model) is not None
    folder = weights.fetch(cfg.model)
    if not checked:
        inspection.check(folder, cfg.model, cfg.compute)
    return folder


def check_same_folder(cfg: Run, folder: RunDir) -> None:
    """Refuses nodes that do not share the folder of runs."""
    if not folder.config.exists():
        raise ValueError(
            f"runs_dir={cfg.runs_dir} is not the same folder on all nodes: "
            f"{folder.config} is missing here; use one that they share"
        )


def check_same_beginning(cfg: Run, folder: RunDir, inputs: Inputs) -> None:
    """ValueError to go on from other weights or prompts than the run began with."""
    now = {
        "weights": weights.weight_digest(inputs.initial),
        "prompts": prompts_digest(inputs.prompts),
    }
    if not folder.initial.exists():
        write_json(folder.initial, now)
    then = read_json(folder.initial)
    for key in now:
        if now[key] != then[key]:
            raise ValueError(
                f"{folder.path} began with other {key} (digest {then[key][:12]}, now "
                f"{now[key][:12]}); give this run a name of its own (name=...)"
            )
    if cfg.selfplay.start_from is not None:
        if 0 < cfg.data.shift.proto(first_iteration(cfg)) < first_iteration(cfg):
            raise ValueError(
                f"data.shift.renew={cfg.data.shift.renew}: those y0 are in the run of "
                f"selfplay.start_from={cfg.selfplay.start_from}; name iterations from "
                f"{first_iteration(cfg)} on"
            )
        if not folder.iteration(first_iteration(cfg)).done.exists():
            start_from(cfg).weights()  # or why they are not there
        theirs = read_json(start_from(cfg).done)["initial_weights"]
        if theirs != now["weights"]:
            raise ValueError(
                f"selfplay.start_from={cfg.selfplay.start_from} descends from another "
                f"initial policy (digest {theirs[:12]}) than model.path={cfg.model.path} "
                f"({now['weights'][:12]}): y0 would not be its past"
            )


def _inspect_model(cfg: Run) -> None:
    """What is known of a model that is here already; `fetch` looks at the others."""
    folder = weights.on_disk(cfg.model)
    if folder is not None:
        inspection.check(folder, cfg.model, cfg.compute)


def _check_data(cfg: Run) -> None:
    if model_files.has_part(Path(cfg.data.path).expanduser()):
        raise ValueError(f"data.path={cfg.data.path} holds a model, which is for model.path")
    schemas.check_columns(cfg.data.columns)
    annotated.check_reachable(cfg.data.path, revision=cfg.data.revision)
