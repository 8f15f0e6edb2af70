"""vLLM, child side: a script for any interpreter that has vLLM. Nothing of ours is imported here.

JSON lines. Standard input: a request first, what to load and how to sample, then batches, each when
the last one is answered, and null. Standard output: {"ready": facts}, {"done": n} as responses end,
{"responses": [[id, ...], ...]} for each batch, or {"failed": sentence}. Whatever libraries print
goes to standard error, the log. The process ends when its standard input does: with the parent,
however that ends. With the argument `check` it only says whether vLLM is there.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from typing import Any

Send = Callable[[dict[str, Any]], None]

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM: what makes its scheduling repeat itself
    "VLLM_NO_USAGE_STATS": "1",
    "TQDM_MININTERVAL": "60",  # seconds between two lines of a bar in the log
}


def check(send: Send) -> None:
    """Whether vLLM is there, without the seconds that loading it takes."""
    if find_spec("vllm") is None:
        raise ModuleNotFoundError(f"{sys.executable} has no module vllm")
    send({"ready": {"vllm": _version()}})


def answer(lines: queue.Queue[str], send: Send) -> None:
    """Loads the policy and answers batches until there are no more."""
    request = json.loads(lines.get())
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams

    llm = LLM(**request["engine"])
    send({"ready": {"vllm": _version()}})
    while batch := json.loads(lines.get()):
        # What is cached of other batches would be a function of what ran before this one.
        llm.reset_prefix_cache()
        outputs = llm.generate(
            [{"prompt_token_ids": ids} for ids in batch["prompts"]],
            [
                SamplingParams(**request["sampling"], seed=seed, temperature=temperature)
                for seed, temperature in zip(batch["seeds"], batch["temperatures"], strict=True)
            ],
            use_tqdm=lambda *args, **options: _Bar(send, *args, **options),
        )
        send({"responses": [list(output.outputs[0].token_ids) for output in outputs]})


class _Bar:
    """What vLLM calls for progress, in place of tqdm: responses that have ended are told on."""

    def __init__(self, send: Send, iterable: Any = None, **options: Any) -> None:
        self.send, self.iterable, self.n = send, iterable, 0
        self.postfix = ""
        self.started = time.monotonic()

    def __iter__(self) -> Any:
        return iter(self.iterable)  # preparation, which ends nothing

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: None  # refresh, close, set_postfix: nothing is drawn

    @property
    def format_dict(self) -> dict[str, float]:
        return {"elapsed": time.monotonic() - self.started + 1e-9}

    def update(self, n: int = 1) -> None:
        self.n += n
        self.send({"done": n})


def _version() -> str | None:
    """Of whichever distribution brings the module: vllm, or a build of it under another name."""
    found = packages_distributions().get("vllm")
    return version(found[0]) if found else None  # None: a source tree on the path


def _read(lines: queue.Queue[str]) -> None:
    """Lines of standard input for `answer`; its end is the end of this process and its children."""
    with os.fdopen(os.dup(0), encoding="utf-8") as stream:
        for line in stream:
            lines.put(line)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _claim_stdout() -> Any:
    """Standard output for messages alone: what anyone else prints goes to standard error."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return messages


if __name__ == "__main__":
    told = _claim_stdout()

    def tell(message: dict[str, Any]) -> None:
        told.write(json.dumps(message) + "\n")
        told.flush()

    try:
        if sys.argv[1:] == ["check"]:
            check(tell)
        else:
            waiting: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_read, args=(waiting,), daemon=True).start()
            answer(waiting, tell)
    except Exception as failure:
        traceback.print_exc()
        text = " ".join(str(failure).split())
        tell({"failed": f"{type(failure).__name__}: {text:.500}"})
        sys.exit(1)
