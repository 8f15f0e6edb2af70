"""llama.cpp, child side: a script for any interpreter that has llama-cpp-python, alone.

Its Python class answers one prompt at a time, so that this calls the C functions below it: a batch
of as many sequences as there are prompts, each of which leaves where it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

FLOAT32 = 0  # of ggml's types


def respond(receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    request = receive()
    import llama_cpp as llama

    rows, threads = request["rows"], request["threads"]
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(
        request["model"].encode(), llama.llama_model_default_params()
    )
    options = llama.llama_context_default_params()
    options.n_ctx = rows * request["columns"]
    options.n_batch = options.n_ubatch = 2048
    options.n_seq_max = rows
    options.n_threads = options.n_threads_batch = threads
    options.type_k = options.type_v = FLOAT32
    context = llama.llama_init_from_model(model, options)
    assert model and context, "the weights were not read"
    send({"ready": True})
    while batch := receive():
        wall, cpu = time.perf_counter(), time.process_time()
        lengths = _sampled(llama, context, batch["prompts"], batch["lengths"])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        send({"wall": wall, "cpu": cpu, "lengths": lengths})


def _sampled(llama: Any, context: Any, prompts: list[list[int]], ends: list[int]) -> list[int]:
    """The number of tokens that were drawn for each prompt."""
    memory = llama.llama_get_memory(context)
    llama.llama_memory_clear(memory, True)
    samplers = [llama.llama_sampler_init_dist(number) for number in range(len(prompts))]
    batch = llama.llama_batch_init(sum(map(len, prompts)), 0, 1)
    places = {}
    for number, prompt in enumerate(prompts):
        for position, token in enumerate(prompt):
            last = position + 1 == len(prompt)
            if last:
                places[number] = batch.n_tokens
            _add(batch, token, position, number, logits=last)
    _decode(llama, context, batch)
    drawn = [0] * len(prompts)
    while places:
        tokens = {
            number: llama.llama_sampler_sample(samplers[number], context, place)
            for number, place in places.items()
        }
        batch.n_tokens, places = 0, {}
        for number, token in tokens.items():
            drawn[number] += 1
            if drawn[number] == ends[number]:
                llama.llama_memory_seq_rm(memory, number, -1, -1)
                continue
            places[number] = batch.n_tokens
            position = len(prompts[number]) + drawn[number] - 1
            _add(batch, token, position, number, logits=True)
        if places:
            _decode(llama, context, batch)
    for sampler in samplers:
        llama.llama_sampler_free(sampler)
    llama.llama_batch_free(batch)
    return drawn


def _add(batch: Any, token: int, position: int, sequence: int, *, logits: bool) -> None:
    i = batch.n_tokens
    batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
    batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
    batch.n_tokens += 1


def _decode(llama: Any, context: Any, batch: Any) -> None:
    if (status := llama.llama_decode(context, batch)) != 0:
        raise RuntimeError(f"llama_decode ended with {status}")
