"""Peak memory of two training steps, each case in a process of its own: python -m support.peaks

Prints {case: [measured bytes, computed bytes]}. Measured is the highest resident memory above what
was there before the model; Linux only. Large blocks come from the kernel and go back to it
(MALLOC_MMAP_THRESHOLD_, set by the caller), so that what is freed does not count.
"""

import json
import os
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import resident
from support.tiny import checkpointed, compose, micro_tokenizer, triplet
from tspin.data.tokens import Renderer
from tspin.planning import shapes
from tspin.planning.memory import memory
from tspin.policy import adapters
from tspin.policy.policy import Policy
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.recipe import Recipe
from tspin.training.step import gradient_step
from tspin.training.strategy import Strategy

COMMON = ("compute.device=cpu", "model.max_length=128", "decoding.max_new_tokens=32")
CASES = {  # layers, width, words
    "all weights": (4, 384, ["compute.micro_batch=2"]),
    "adamw, a large vocabulary": (2, 256, ["compute.micro_batch=4", "optim=adamw"]),
    "checkpointing": (12, 192, ["compute.micro_batch=5", "compute.gradient_checkpointing=true"]),
    "lora": (6, 320, ["compute.micro_batch=3", "lora=default", "model.lora.rank=8"]),
}


def step(layers, width, words):
    """-> [measured, computed]"""
    run = compose(*COMMON, *words)
    vocab = 30000 if "optim=adamw" in words else 2000
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 64,
    )  # fmt: skip
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = resident("VmRSS")
    model = LlamaForCausalLM(config)
    if run.model.lora is not None:
        adapters.add(model, run.model.lora, base=adapters.Path("x"), dtype=torch.float32)
    if run.compute.gradient_checkpointing:
        checkpointed(model)
    renderer = Renderer(micro_tokenizer(), "alpaca_space")
    policy = Policy(model, renderer, torch.device("cpu"), None, "auto")
    assert policy.packed is not None
    model.train()
    optimizer = build_optimizer(policy, run.optim)
    loss, prompt = run.loss_at(1), list(range(3, 3 + run.max_prompt_length))
    answer = list(range(5, 5 + run.decoding.max_new_tokens))
    batch = [triplet(i, prompt, answer, answer, answer) for i in range(2 * run.compute.micro_batch)]
    recipe = Recipe(loss=loss, optim=run.optim, compute=run.compute, seed=0, t=1)
    for _ in range(2):
        strategy, cut = Strategy(policy), Cut.of(run.compute)
        gradient_step(strategy, optimizer, batch, recipe, cut, where="")
    shape = shapes.of(config.to_dict(), "a test")
    return [resident("VmHWM") - before, memory(shape, run, device="cpu").training]


def main():
    torch.set_num_threads(1)
    step(1, 64, CASES["lora"][2])  # what libraries take is not the model's
    for name, case in CASES.items():
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            sys.stdout.write(json.dumps({name: step(*case)}) + "\n")
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)


if __name__ == "__main__":
    main()
