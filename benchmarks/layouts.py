"""What a token and a pair (query, key) cost: constants of tspin/logprobs/packing.py, fitted here.

    python benchmarks/layouts.py [hidden_size]

Times the layers (no head), forward and backward, of a small Llama over streams of several shapes,
in both layouts, and fits time = a * (tokens + (CAUSAL * p + PREFIXED * q) / hidden size), p pairs
in rows without a prefix and q with one, by least squares of the relative error. Seconds are the
process's own: what other processes take is not counted.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import get_args

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import LlamaConfig, LlamaForCausalLM

from tspin.data.triplets import Triplet
from tspin.logprobs import attention
from tspin.logprobs.packing import Layout, Stream, pack
from tspin.objectives import Role

SHAPES = [(8, 128), (32, 512), (128, 128), (256, 32), (512, 64), (512, 256)]
ROLES: tuple[Role, ...] = ("annotated", "synthetic", "proto")
TOKENS = 1500  # about, in a stream
log = logging.getLogger("benchmarks")


def main(hidden_size: int = 256) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=hidden_size,
            intermediate_size=hidden_size * 8 // 3,
            num_hidden_layers=4,
            num_attention_heads=hidden_size // 64,
            num_key_value_heads=hidden_size // 64,
        )
    )
    attention.install(model)
    _seconds(model, pack(_triplets(64, 64), ROLES, "shared", device=torch.device("cpu")))  # warm
    rows = []
    for prompt, response in SHAPES:
        triplets = _triplets(prompt, response)
        for layout in get_args(Layout):
            stream = pack(triplets, ROLES, layout, device=torch.device("cpu"))
            seconds = min(_seconds(model, stream) for _ in range(2))
            rows.append((*_features(stream, hidden_size), seconds))
            log.info("%5d/%-4d %-9s %.3f s", prompt, response, layout, seconds)
    table = np.array(rows)
    per_token, causal, prefixed = nnls(table[:, :3] / table[:, 3:], np.ones(len(table)))[0]
    fitted = table[:, :3] @ [per_token, causal, prefixed] / table[:, 3]
    log.info("CAUSAL = %.3f  PREFIXED = %.3f", causal / per_token, prefixed / per_token)
    log.info("fitted / measured: %.2f to %.2f", fitted.min(), fitted.max())


def _triplets(prompt: int, response: int) -> list[Triplet]:
    count = max(1, TOKENS // (prompt + len(ROLES) * response))
    responses = {role: [7] * response for role in ROLES}
    return [Triplet(str(i), "", 0, [5] * prompt, responses) for i in range(count)]


def _features(stream: Stream, hidden_size: int) -> tuple[float, float, float]:
    pairs = [0, 0]
    for row in stream.rows:
        pairs[row.prefix > 0] += row.pairs
    return stream.input_ids.numel(), pairs[0] / hidden_size, pairs[1] / hidden_size


def _seconds(model: LlamaForCausalLM, stream: Stream) -> float:
    model.zero_grad()
    started = time.process_time()
    attention.hidden_states(model, stream, set()).sum().backward()
    return time.process_time() - started


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
