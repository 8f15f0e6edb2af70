"""Benchmarks of lm-eval, child side: `python -m tspin.harness REQUEST`. No other module imports it.

REQUEST is the JSON that stages.benchmark composes. Each task is evaluated as if it were alone and
its result file is written when it is done, so that its numbers depend on no other task and a killed
process loses one task at most. Messages to the parent are JSON lines on standard output; whatever
libraries print goes to standard error, the log. The process ends when its standard input does: with
the parent, however that ends.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import datasets
import torch

from tspin.harness.evaluation import language_model, run
from tspin.harness.tasks import first_line, problems, task_manager
from tspin.tools.files import write_json

Send = Callable[[dict[str, Any]], None]


def main(request: dict[str, Any], send: Send) -> None:
    """Checks that the request's tasks can be built, or evaluates them where it has a policy."""
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
        result = run(lm, manager, task, wanted["shots"], request)
        write_json(Path(wanted["file"]), result)
        send({"finished": task})


def _die_with_parent() -> None:
    """The parent holds the other end of standard input and writes nothing: its end is the end."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # sys.stdin itself has a lock that an orderly exit needs
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _claim_stdout() -> TextIO:
    """Standard output for messages alone: what anyone else prints goes to standard error."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return messages


if __name__ == "__main__":
    stream = _claim_stdout()
    _die_with_parent()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)

    def tell(message: dict[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    try:
        main(json.loads(sys.argv[1]), tell)
    except Exception as failure:
        traceback.print_exc()
        tell({"failed": first_line(failure)})
        sys.exit(1)
