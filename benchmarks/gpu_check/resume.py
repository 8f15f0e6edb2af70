"""A run of the embedded model that is killed while it trains, and ends with the same bits.

No torch at the top: each run starts CUDA in a process forked from one that has not.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from benchmarks.gpu_check.results import Outcome, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.cli.command import check
from tspin.runs.artifacts import RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import read_json

CLOCK = ("seconds", "tokens_per_second", "useful_tokens_per_second", "flop_utilisation")
KILLED_AFTER = 3  # steps in the record
POLL = 0.02  # seconds between two looks at it


def resume(setting: Setting) -> Iterator[Outcome]:
    """Two runs that differ by name alone; the second is killed and started again."""
    whole, killed = (RunDir(setting.folder / "runs" / name) for name in ("whole", "killed"))
    _ended(_started(setting, whole), 0)
    process = _started(setting, killed)
    steps = _killed(process, killed)
    again = _started(setting, killed)
    _ended(again, 0)
    one, other = (_result(folder) for folder in (whole, killed))
    arithmetic = read_json(killed.provenance)["launches"][-1]["arithmetic"]
    yield verdict(
        "SIGKILL while training",
        one == other,
        {
            "killed after step": steps,
            "of": len(one["steps"]),
            "device": arithmetic["device"],
            "kernels": ", ".join(arithmetic.get("kernels", [])),
            "weights": str(one["weights"])[:12],
            "weights after a kill": str(other["weights"])[:12],
            "steps that differ": _differing(one["steps"], other["steps"]),
        },
        rule="under compute.deterministic=true weights and metrics are to be the same bits",
    )


def _started(setting: Setting, folder: RunDir) -> BaseProcess:
    process = get_context("fork").Process(target=_play, args=(setting, folder))
    process.start()
    return process


def _play(setting: Setting, folder: RunDir) -> None:
    """The run, as main.py plays it."""
    run = (
        check(
            [
                "model=micro", "loss=tspin", "track=none", f"compute.device={setting.device}",
                f"name={folder.path.name}", f"runs_dir={folder.path.parent}",
                "data.size=64", "data.heldout=16", "selfplay.iterations=1", "optim.epochs=6",
                "compute.deterministic=true", "compute.save_seconds=0", "selfplay.share=false",
            ]
        )
        .points[0]
        .run
    )  # fmt: skip
    from tspin.selfplay import algorithm

    algorithm.run(run, command=["gpu_check"])


def _killed(process: BaseProcess, folder: RunDir) -> int:
    """SIGKILL once some steps are recorded. -> how many were"""
    out = folder.iteration(0)
    while not out.metrics.exists() or len(StepLog.read(out.metrics)) < KILLED_AFTER:
        if process.exitcode is not None:
            raise RuntimeError(f"the run to be killed ended with {process.exitcode} before that")
        time.sleep(POLL)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    _ended(process, -signal.SIGKILL)
    if out.checkpoint.exists():
        raise RuntimeError("the run to be killed had trained to the end before that")
    return len(StepLog.read(out.metrics))


def _ended(process: BaseProcess, code: int) -> None:
    process.join()
    if process.exitcode != code:
        raise RuntimeError(f"a run ended with {process.exitcode}, not {code}")


def _result(folder: RunDir) -> dict[str, Any]:
    """What two runs have to have in common: weights, and each step but for its time."""
    out = folder.iteration(0)
    rows = StepLog.read(out.metrics)
    steps = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]
    return {"weights": read_json(out.done)["weights"], "steps": steps}


def _differing(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))
