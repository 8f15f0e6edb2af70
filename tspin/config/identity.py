"""What makes a run the run it is: its name, and what decides each of its iterations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Literal

from tspin.config.load import dump
from tspin.config.objective import TARGET, key_of
from tspin.config.older import ADDED
from tspin.config.run import Run
from tspin.config.schedules import at
from tspin.tools.files import digest, flatten

IDENTITY_FREE = (
    "track.wandb",
    "track.tensorboard",
    "track.mlflow",
    "track.trackio",
    "track.project",
    "track.entity",
    "track.group",
    "track.tags",
    "track.report",
    "track.num_token_logps",
    "evals.",
    "compute.deterministic",
    "compute.overlap",
    "compute.parallel",
    "compute.products",
    "compute.save_seconds",
    "compute.grace_seconds",
    "compute.threads",
    "compute.zero_stage",
    "decoding.vllm_python",
    "decoding.data_parallel",
    "decoding.tensor_parallel",
    "decoding.gpu_memory",
    "selfplay.share",
    "selfplay.keep",
    "sync.",
    "runs_dir",
)
"""Keys or sections that a relaunch may set otherwise: none changes what is trained (threads,
parallel, products, zero_stage, deterministic and tensor_parallel: its last bits). A benchmark is of
a policy, not of its training, and its file says how it was made."""

NOT_OF_METHOD = (
    *IDENTITY_FREE,
    *("name", "seed", "selfplay.iterations", "track.", "compute."),
    *("loss.name", "loss.label", f"loss.{TARGET}"),
    *("model.name", "data.name", "data.eval_split"),
)
"""Keys or sections in which runs of one method may differ: what analysis compares them without."""

OF_ONES_OWN = {"model": "custom", "data": "file"}  # options whose path says what is chosen
LONGEST = 40  # characters of the end of a path in a name
Paths = Literal["end", "exact", "behind"]  # how a name says a path, see run_name

# Of `decoding`: what vLLM alone reads, and of that what decides the samples.
OF_VLLM = {"vllm_python", "data_parallel", "tensor_parallel", "gpu_memory", "vllm_args"}
DECIDING = {"tensor_parallel", "vllm_args"}


def sampling(run: Run) -> dict[str, Any]:
    """What of `decoding` decides the samples, as part of the key of what is made from them.

    What the engine does not read is left out. How many GPUs share a policy decides its last
    bits; vLLM promises nothing there, so such samples are not shared.
    """
    unread = OF_VLLM - DECIDING if run.decoding.engine == "vllm" else OF_VLLM
    return {key: value for key, value in dump(run)["decoding"].items() if key not in unread}


def history(run: Run, t: int) -> list[dict[str, Any]]:
    """What decides iterations 0..t, beside the initial weights and the pairs themselves.

    Runs that began alike and have equal histories leave the same iteration, bit for bit: so
    tspin and wo_ha at iteration 0, or two values of a beta that is 0 there. This alone decides what
    is shared: a plan compares it as it is (runs.point), a run with the digests of its beginning
    (runs.sharing.iteration_key).
    """
    by_iteration = (
        *("name", "loss.", "coef.", "anchor.", "curriculum.", "data.shift."),
        *("optim.lr", "selfplay.iterations"),
    )
    common = {
        key: value
        for key, value in flatten(dump(run)).items()
        if not key.startswith((*by_iteration, *IDENTITY_FREE))
        and not (key in ADDED and value == ADDED[key])
    }
    curriculum = {"curriculum": dump(run)["curriculum"]}  # no part of where all are chosen
    return [
        common
        | {"objective": list(run.loss_at(k).key()), "optim.lr": at(run.optim.lr, k)}
        | run.data.shift.history(k)
        | (curriculum if run.curriculum_at(k) else {})
        for k in range(t + 1)
    ]


def run_name(
    tree: dict[str, Any],
    default: dict[str, Any],
    *,
    paths: Paths = "exact",
    taken: Collection[str] = (),
) -> str:
    """MODEL-LOSS-DATA-sSEED and what else changes numbers, e.g. "micro-tspin-micro-s0-alpha=0.3".

    MODEL and DATA are the options' names, and of one's own what its path ends in: "pairs.csv".

    tree     plain values of the run, as dump gives them
    default  the same with nothing chosen but model, loss, data and seed
    paths    how a path of one's own is said: by its end, which two may share; exactly, with a
             digest where the end alone is not the path; behind, as version 0.1.0 named it
    taken    names of options, which no end of a path may look like
    """
    usual, left_out = without_copies(flatten(default)), ("name", "seed", *IDENTITY_FREE)
    values = {k: v for k, v in without_copies(flatten(tree)).items() if not k.startswith(left_out)}
    names = {group: tree[group]["name"] for group in ("model", "loss", "data")}
    for group, option in OF_ONES_OWN.items():
        own = _of_path(tree[group]["path"], paths, taken)
        if names[group] == option and own is not None:
            names[group] = own
            del values[f"{group}.path"]
    last = Counter(key.rsplit(".", 1)[-1] for key in (*values, "seed"))
    differs = []
    for key, value in sorted(values.items()):
        if value != usual.get(key):
            word = key.rsplit(".", 1)[-1]
            differs.append(f"{word if last[word] == 1 else key}={_short(value)}")
    # A long list makes an unreadable name; a digest of it is still a function of the values.
    if len("-".join(differs)) > 80:
        differs = [digest(differs)[:8]]
    return "-".join([*names.values(), f"s{tree['seed']}", *differs])


def paths_of(run: Run) -> tuple[str, str]:
    """What two runs of one name have to agree on."""
    return run.model.path, run.data.path


def without_copies(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened values, without the coefficients of the loss that are those of the group coef."""
    coef = {key[5:]: value for key, value in values.items() if key.startswith("coef.")}
    return {
        key: value
        for key, value in values.items()
        if not (key.startswith("loss.") and key_of(key[5:], value, coef) != key)
    }


def _of_path(path: str, paths: Paths, taken: Collection[str]) -> str | None:
    """What a path of one's own adds to a name; None: nothing that could not be an option's name."""
    if paths == "behind":
        return None
    end = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.rstrip("/").rsplit("/", 1)[-1]).strip("._-")
    if paths == "end" and 0 < len(end) <= LONGEST and end not in taken:
        return end
    exact = _short(path)
    return exact if "." in exact.strip(".") else None


def _short(value: Any) -> str:
    """A word for a file name; no two values of a key have the same."""
    if isinstance(value, list) and len(value) > 1:
        return ",".join(map(str, value))
    text = str(value)
    if not isinstance(value, str | list) or re.fullmatch(r"[A-Za-z0-9_.]{1,24}", text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", text.rsplit("/", 1)[-1]).strip("_")
    return f"{readable[:16]}.{digest(value)[:8]}"
