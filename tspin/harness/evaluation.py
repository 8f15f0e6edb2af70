"""One policy on one task or group of lm-eval, as if it were alone."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tspin.config.run import ComputeConfig
from tspin.data.templates import Conversation, Rendering
from tspin.data.tokens import Renderer
from tspin.harness.numbers import tabulate
from tspin.policy import dtypes, policy

FEWSHOT_SEED = 1234  # lm-eval's own four seeds: 0, 1234, 1234, 1234


class TrainedTemplate(HFLM):
    """Prompts inside the run's template, as the ids that training puts together.

    Not by lm-eval's own road: it ends prompts with a chat template's generation prompt, where the
    rendering of an answer may have something else, and it joins prompt and answer as one text;
    "### Response:" followed by "A" is then another token than the " A" that the policy has seen.
    """

    def __init__(self, *, rendering: Rendering, **options: Any) -> None:
        super().__init__(**options)
        self.renderer = Renderer(self.tokenizer, rendering)
        self._begun: set[str] = set()  # contexts that end with an answer's first words
        if self.renderer.form.writes_prefix:
            self.add_bos_token = False

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """One user turn (a system turn before it, the answer's first words behind it) as text."""
        contents = {turn["role"]: turn["content"] for turn in chat_history}
        system = contents.get("system", "").strip() or None
        text = self.renderer.prompt_text(Conversation(contents["user"], system))
        if "assistant" not in contents:
            return text
        text += self.renderer.form.lead + contents["assistant"]
        self._begun.add(text)
        return text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        form = self.renderer.form
        words = continuation if context in self._begun else form.lead + continuation.strip()
        return self.tok_encode(context), form.continued(context, words)  # it may go on: no end


class Truncations(logging.Filter):
    """Counts lm-eval's warnings that an input lost its beginning; lets the first one through."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if "runcat" not in record.getMessage():  # "Truncating 7 tokens", "Left truncation applied"
            return True
        self.count += 1
        return self.count == 1


def language_model(request: Mapping[str, Any]) -> HFLM:
    """The checkpoint as lm-eval loads it, in the run's arithmetic and on its device."""
    how = dtypes.resolve(ComputeConfig(**request["compute"]), request["precision"])
    options: dict[str, Any] = {
        "pretrained": request["policy"],
        "device": str(how.device),
        "dtype": str(how.products).removeprefix("torch."),
        "batch_size": request["batch_size"],
        "max_length": request["max_length"],
    }
    if (parts := policy.in_parts(Path(request["policy"]), how, request["quantize"])) is not None:
        options |= {"pretrained": parts, "tokenizer": request["policy"]}
    if request["template"] == "none":
        return HFLM(**options)
    day = request.get("day")
    # A task's system message that a template does not take stands before the prompt.
    rendering = Rendering(
        request["template"],
        request.get("template_args", {}),
        system="merge",
        day=None if day is None else date.fromisoformat(day),
    )
    return TrainedTemplate(rendering=rendering, **options)


def run(
    lm: HFLM, manager: TaskManager, task: str, shots: int | None, request: Mapping[str, Any]
) -> dict[str, Any]:
    """One task or group, alone: every metric, the number of documents, examples and seconds.

    A policy is trained on single turns: with a template the examples stand in the one user turn.
    """
    started = time.monotonic()
    seed_everything()
    built = manager.load([task])
    seed_everything()  # the first documents made are those of a process that built nothing else
    for leaf in built["tasks"].values():
        own = leaf.get_config("num_fewshot")
        # As lm-eval does: a task defined with 0 examples keeps 0.
        leaf.set_config("num_fewshot", own or 0 if shots is None or own == 0 else shots)
        leaf.set_fewshot_seed(FEWSHOT_SEED)
        if (process := leaf.get_config("process_docs")) is not None:
            leaf.set_config("process_docs", once(process))
            _ = leaf.eval_docs  # made now, in the tasks' order, before anything else draws
    truncations = Truncations()
    logger = logging.getLogger("lm_eval.models.huggingface")
    logger.addFilter(truncations)
    try:
        results = evaluate(
            lm=lm,
            task_dict=built,
            limit=request["limit"],
            apply_chat_template=request["template"] != "none",
            fewshot_as_multiturn=False,
        )
    finally:
        logger.removeFilter(truncations)
    return {
        "task": task,
        **tabulate(results, built, task),
        **({"truncated": truncations.count} if truncations.count else {}),
        "seconds": round(time.monotonic() - started, 3),
        "harness": {
            "lm_eval": version("lm_eval"),
            "template": request["template"],
            "limit": request["limit"],
            "dtype": str(lm.model.dtype).removeprefix("torch."),
            "device": str(lm.device.type),
            "batch_size": request["batch_size"],
            "max_length": lm.max_length,
        },
    }


def seed_everything() -> None:
    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)
    with contextlib.suppress(ImportError):  # IFEval's, with a generator of its own
        from langdetect import DetectorFactory

        DetectorFactory.seed = 0


def once(process: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`process_docs`, called once per split.

    lm-eval calls it again for every look at the documents: answers that it shuffles (GPQA) would
    be scored in another order than they were asked in.
    """
    results: dict[int, Any] = {}

    @functools.wraps(process)
    def remembered(split: Any) -> Any:
        if id(split) not in results:
            results[id(split)] = process(split)
        return results[id(split)]

    return remembered
