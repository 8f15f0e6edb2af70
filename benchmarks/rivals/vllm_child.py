"""vLLM, child side: a script for any interpreter that has vLLM, which needs nothing of ours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, whose CPU time is measured
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def respond(receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    request = receive()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import torch
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=request["model"], dtype="float32", max_model_len=request["columns"],
        max_num_seqs=request["rows"], enable_prefix_caching=False, skip_tokenizer_init=True,
    )  # fmt: skip
    torch.set_num_threads(request["threads"])
    send({"ready": True})
    while batch := receive():
        prompts = [{"prompt_token_ids": ids} for ids in batch["prompts"]]
        how = [
            SamplingParams(temperature=1.0, ignore_eos=True, min_tokens=n, max_tokens=n,
                           detokenize=False, seed=number)
            for number, n in enumerate(batch["lengths"])
        ]  # fmt: skip
        wall, cpu = time.perf_counter(), time.process_time()
        outputs = llm.generate(prompts, how, use_tqdm=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        lengths = [len(output.outputs[0].token_ids) for output in outputs]
        send({"wall": wall, "cpu": cpu, "lengths": lengths})
