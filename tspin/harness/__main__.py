"""Benchmarks of lm-eval, child side: `python -m tspin.harness`, started by stages.benchmark alone.

The request is the first message (tools.child). Each task is evaluated as if it were alone and its
result file is written when it is done, so that its numbers depend on no other task and a killed
process loses one task at most.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import datasets
import torch

from tspin.harness.evaluation import language_model, run
from tspin.harness.tasks import problems, task_manager
from tspin.tools.child import Receive, Send, serve
from tspin.tools.files import write_json


def work(receive: Receive, send: Send) -> None:
    """Checks that the request's tasks can be built, or evaluates them where it has a policy."""
    request = receive()
    # A cached `process_docs` is that of the first process ever: GPQA's shuffled answers would be a
    # function of this machine's history instead of the seed.
    datasets.disable_caching()
    if request["data_root"] is not None:
        os.chdir(request["data_root"])  # OWNER/DATASET is then a folder, which `datasets` prefers
    manager = task_manager(request["tasks"], request["tasks_dir"])
    if request["policy"] is None:
        for task, wanted in request["tasks"].items():
            send({"started": task})
            for problem in problems(manager, task, wanted, data_root=request["data_root"]):
                send({"problem": problem})
        return
    if request["compute"]["threads"] is not None:
        torch.set_num_threads(request["compute"]["threads"])
    lm = language_model(request)
    for task, wanted in request["tasks"].items():
        send({"started": task})
        write_json(Path(wanted["file"]), run(lm, manager, task, wanted["shots"], request))
        send({"finished": task})


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)
    serve(work)
