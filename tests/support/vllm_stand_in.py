"""A package `vllm` of a few lines, so that our worker runs where the real one is not installed.

It keeps what vLLM documents of LLM and SamplingParams: their arguments and bounds, ids in and out,
a response as a function of prompt, seed and temperature. Every engine and batch it is given goes
into $STAND_IN_CALLS as a JSON line; $STAND_IN_FATE says after how many batches it ends, and how.
"""

import os
import sys

import pytest

REAL = os.environ.get("TSPIN_VLLM_PYTHON")
real = pytest.mark.skipif(REAL is None, reason="TSPIN_VLLM_PYTHON names no interpreter with vLLM")
STOP = 1  # of the embedded tokenizer

STAND_IN = """
import hashlib, json, os, pathlib, random, signal

FATE = json.loads(os.environ.get("STAND_IN_FATE", "{}"))

def record(what):
    with open(os.environ["STAND_IN_CALLS"], "a") as calls:
        calls.write(json.dumps(what | {"pid": os.getpid()}) + "\\n")

class SamplingParams:
    def __init__(self, *, temperature, seed, top_k, top_p, min_p, max_tokens, stop_token_ids,
                 ignore_eos, detokenize):
        if not 0 <= temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {temperature}.")
        self.__dict__ |= {name: value for name, value in locals().items() if name != "self"}

class Out:
    def __init__(self, ids):
        self.token_ids = tuple(ids)
        self.outputs = [self]

class LLM:
    def __init__(self, model, *, skip_tokenizer_init, generation_config, dtype, max_model_len,
                 tensor_parallel_size, gpu_memory_utilization, enforce_eager=False, **others):
        told = {n: v for n, v in locals().items() if n not in ("self", "others")} | others
        record({"engine": told, "devices": os.environ.get("CUDA_VISIBLE_DEVICES")})
        files = sorted(pathlib.Path(model).glob("*.safetensors"))
        record({"weights": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]})
        print("what libraries print is no message")
        self.batches = 0

    def reset_prefix_cache(self):
        return True

    def generate(self, prompts, params, use_tqdm):
        if self.batches == FATE.get("batches"):
            if FATE["end"] == "raise":
                raise RuntimeError("No available memory for the cache blocks.")
            if FATE["end"] == "pause":
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)
        self.batches += 1
        record({"batch": [[p["prompt_token_ids"], vars(s)] for p, s in zip(prompts, params)]})
        bar, found = use_tqdm(total=len(prompts), desc="Processed prompts"), []
        for prompt, told in zip(use_tqdm(prompts, desc="Rendering"), params):
            dice = random.Random(str([prompt, told.seed, told.temperature]))
            ids = []
            while len(ids) < told.max_tokens and (not ids or ids[-1] not in told.stop_token_ids):
                ids.append(dice.choice([*told.stop_token_ids, *range(3, 12)]))
            found.append(Out(ids))
            bar.postfix = f"{bar.format_dict['elapsed']}"
            bar.update(1)
        bar.refresh()
        bar.close()
        return found
"""


def environment(root):
    """An interpreter in `root` that has this vllm and nothing of ours. -> its path"""
    package = root / "site" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN, encoding="utf-8")
    python = root / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python
