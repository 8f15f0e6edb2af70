"""vLLM, child side: a script for any interpreter that has vLLM, which needs nothing of ours.

Messages (tools/child.py, which serves it). It receives a request, what to load and how to
sample, then batches, each when the last one is answered, and null. It sends {"ready": facts},
{"done": n} as responses end, and {"responses": [[id, ...], ...]} for each batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from typing import Any

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM: what makes its scheduling repeat itself
    "VLLM_NO_USAGE_STATS": "1",
    "TQDM_MININTERVAL": "60",  # seconds between two lines of a bar in the log
}


def respond(receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    """Loads the policy and answers batches until there are no more."""
    request = receive()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams

    llm = LLM(**request["engine"])
    send({"ready": {"vllm": _version()}})
    while batch := receive():
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

    def __init__(self, send: Callable[[Any], None], iterable: Any = None, **options: Any) -> None:
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
    names = packages_distributions().get("vllm")
    return version(names[0]) if names else None  # None: a source tree on the path
