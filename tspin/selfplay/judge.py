"""The second process of compute.overlap: `python -m tspin.selfplay.judge`, which overlap starts.

Messages (tools/child.py): it receives a request, then the number of an iteration that is trained,
each when the one before it is done, and null. It sends {"log": [level, line]} and, for each,
{"judged": t, "kernels": names}.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from tspin.config.load import load
from tspin.distributed.world import ALONE
from tspin.runs.artifacts import RunDir
from tspin.selfplay.inputs import Inputs
from tspin.selfplay.iteration import IterationStages
from tspin.selfplay.session import Session, policies_of
from tspin.tools.child import Receive, Send, serve
from tspin.tracking.tracker import Tracker


class Judging(Session):
    """The same run, seen by a process that does not write what is the other's: provenance.json."""

    kernels: frozenset[str] = frozenset()

    def note_kernels(self, kernels: list[str]) -> None:
        self.kernels |= set(kernels)


class _Sent(logging.Handler):
    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send({"log": [record.levelno, record.getMessage()]})


def work(receive: Receive, send: Send) -> None:
    """Scores and evaluates iteration by iteration, in the folder of the run."""
    request: dict[str, Any] = receive()
    log = logging.getLogger("tspin")
    log.setLevel(logging.INFO)
    log.addHandler(_Sent(send))
    torch.set_num_threads(request["threads"])
    cfg = load(request["run"])
    folder = RunDir(cfg.folder)
    inputs = Inputs(cfg, folder, Path(request["initial"]))
    session = Judging(cfg, folder, ALONE, policies_of(cfg), inputs, Tracker([]), lambda: None)
    while (t := receive()) is not None:
        IterationStages(session, t).judge()
        send({"judged": t, "kernels": sorted(session.kernels)})


if __name__ == "__main__":
    serve(work)
