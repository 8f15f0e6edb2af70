"""Rebuilds the micro policies from nothing: pre-training, then a supervised warm start.

Pre-training teaches the form of an answer and every operation, but hardly which one is asked: the
base policy can do the task and rarely does what it is told. That is left to teach.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from tspin.micro import task, tokenizer
from tspin.micro.training import (
    Recipe,
    digest,
    load,
    make,
    num_parameters,
    reproducible,
    respond,
    share_right,
)
from tspin.tools.files import write_text

log = logging.getLogger(__name__)

# What a pre-training answer is: the right one, the content copied, or else another operation.
RIGHT, COPY = 0.15, 0.25

# Operations that no prompt asks for. They spread the wrong answers thin enough (7 to 9% each) that
# the right one stands out and pre-training ties a prompt to its operation, if loosely; without them
# the warm start cannot tell the families apart. None starts as the content does: with COPY, that
# start would be likelier than any right one.
STRAY: dict[str, list[task.Operation]] = {
    "word": [
        lambda word: word[1:] + word[0],
        lambda word: word[-1] + word[1:-1] + word[0],
        lambda word: word.capitalize(),
    ],
    "numbers": [
        lambda numbers: str(min(numbers)),
        lambda numbers: str(sorted(numbers)[1]),
        lambda numbers: str(numbers[-1]),
        lambda numbers: task.join(numbers[1:]),
        lambda numbers: task.join(numbers[::-1]),
        lambda numbers: task.join(sorted(numbers, reverse=True)),
    ],
}

NUM_WARM = 512
NUM_VALIDATION = 320
MAX_NEW_TOKENS = 12  # the longest answer, three numbers in order, is 8 tokens and EOS

STEPS = 2000  # of pre-training
PRETRAIN = Recipe(lr=2e-3, batch_size=128, warmup_steps=50)
WARM = Recipe(lr=8e-4, batch_size=16, warmup_steps=6, epochs=2)


@dataclass(frozen=True)
class Figure:
    """Exact match of one policy on one split, as a fraction of n prompts."""

    policy: str
    split: str
    decoding: str
    n: int
    exact: float
    exact_float32: float  # the same policy before its weights were rounded to float16

    @property
    def stderr(self) -> float:
        """Binomial standard error over the prompts."""
        return math.sqrt(self.exact * (1 - self.exact) / self.n)


def build(out: Path, *, steps: int | None, seed: int, threads: int, num_eval: int) -> None:
    """Write out/base, out/warm and the model card out/README.md.

    steps     of pre-training; None: STEPS
    seed      fixes weights bit for bit, on one machine and number of threads
    num_eval  test prompts behind the card's figures; validation uses at most 320 of them, and 0
              makes no card
    """
    started = time.perf_counter()
    steps = steps or STEPS
    tok = tokenizer.build(task.forms())
    base, warm = out / "base", out / "warm"
    with reproducible(seed=seed, threads=threads):
        log.info("pre-training: %d steps of %d pairs", steps, PRETRAIN.batch_size)
        corpus = pretraining_pairs(steps * PRETRAIN.batch_size, seed)
        model = make(base, tok, corpus, PRETRAIN, start=None, seed=seed)

        log.info("warm start: %d epochs on %d pairs", WARM.epochs, NUM_WARM)
        pairs = task.pairs("warm", NUM_WARM, seed)
        warm_model = make(warm, tok, pairs, WARM, start=base, seed=seed)
    seconds = time.perf_counter() - started

    if not num_eval:
        return
    log.info("evaluation: %d test prompts", num_eval)
    num_prompts = {"validation": min(num_eval, NUM_VALIDATION), "test": num_eval}
    figures = [
        *measure(base, model, num_prompts, seed=seed),
        *measure(warm, warm_model, num_prompts, seed=seed),
    ]
    command = (
        f"python -m tspin.micro --steps {steps} --seed {seed} --threads {threads} "
        f"--num-eval {num_eval}"
    )
    text = card(figures, num_parameters(model), len(tok), command, seconds, (base, warm))
    write_text(out / "README.md", text)
    log.info("wrote %s, %s and the model card beside them", base, warm)


def pretraining_pairs(n: int, seed: int) -> list[tuple[str, str]]:
    """n prompts of the split "pretrain" with answers that are right in RIGHT of them.

    The order is shuffled: the list of `task` has most of its short words in front.
    """
    rng = random.Random(f"pretraining/{seed}")
    corpus = []
    for prompt, right in task.pairs("pretrain", n, seed):
        parsed = task.parse(prompt)
        assert parsed is not None, prompt
        family, content = parsed
        draw = rng.random()
        if draw < RIGHT:
            answer = right
        elif draw < RIGHT + COPY:
            answer = copy(content)
        else:
            answer = rng.choice(other_operations(family))(content)
        corpus.append((prompt, answer))
    rng.shuffle(corpus)
    return corpus


def copy(content: task.Content) -> str:
    """The content as the prompt spells it."""
    return content if isinstance(content, str) else task.join(content)


def other_operations(family: task.Family) -> list[task.Operation]:
    """The operations a wrong answer to this family may have done: other families and STRAY ones."""
    others = [f.answer for f in task.FAMILIES if f.kind == family.kind and f is not family]
    return others + STRAY[family.kind]


def measure(
    path: Path, unrounded: LlamaForCausalLM, num_prompts: dict[str, int], *, seed: int
) -> list[Figure]:
    """Exact match of the policy in a folder, and of the same policy before rounding.

    num_prompts   of each split to measure
    """
    tok = AutoTokenizer.from_pretrained(path)
    model = load(path)
    figures = []
    for split, n in num_prompts.items():
        pairs = task.pairs(split, n, seed)
        for decoding in ("greedy", "temperature 1"):
            exact, exact_float32 = (
                exact_match(m, tok, pairs, greedy=decoding == "greedy", seed=seed)
                for m in (model, unrounded)
            )
            figures.append(Figure(path.name, split, decoding, n, exact, exact_float32))
            log.info("%s, %s, %s: %.1f%% of %d", path.name, split, decoding, 100 * exact, n)
    return figures


def exact_match(
    model: LlamaForCausalLM,
    tok: PreTrainedTokenizerBase,
    pairs: list[tuple[str, str]],
    *,
    greedy: bool = True,
    seed: int = 0,
) -> float:
    """The fraction of the prompts answered exactly, with one response each."""
    prompts = [prompt for prompt, _ in pairs]
    temperature = None if greedy else 1.0
    responses = respond(
        model, tok, prompts, max_new_tokens=MAX_NEW_TOKENS, temperature=temperature, seed=seed
    )
    return share_right(task.check, prompts, responses)


def card(
    figures: list[Figure],
    parameters: int,
    vocab: int,
    command: str,
    seconds: float,
    folders: tuple[Path, ...],
) -> str:
    """The model card, README.md."""
    rows = "\n".join(
        f"| {f.policy} | {f.split} | {f.decoding} | {f.n} | {100 * f.exact:.2f} "
        f"| {100 * f.stderr:.2f} | {100 * f.exact_float32:.2f} |"
        for f in figures
    )
    digests = "\n".join(f"| {path.name} | `{digest(path)}` |" for path in folders)
    return CARD.format(
        rows=rows,
        digests=digests,
        parameters=f"{parameters:,}",
        vocab=vocab,
        command=command,
        minutes=f"{seconds / 60:.1f}",
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
        right=f"{RIGHT:.0%}",
        copy=f"{COPY:.0%}",
        num_warm=NUM_WARM,
        pretrain=PRETRAIN,
        warm=WARM,
    )


CARD = """\
# The micro policies

For the task with many right answers, `micro_open`, see [open.md](open.md).

Two Llama-shaped policies of {parameters} parameters (hidden 128, 3 layers, 4 heads, MLP 192, tied
embeddings, {vocab} token ids, no BOS) for the generated instruction task of `task.py`. They exist
so that self-play runs from start to end in seconds on one CPU core. They know nothing else.

- `base` is pre-trained on the split `pretrain` to answer in the right form, but only {right} of the
  answers it saw were right; {copy} copied the content and the rest did another operation.
- `warm` is `base` after supervised fine-tuning on {num_warm} right pairs of the split `warm`, which
  shares no word and no set of numbers with the splits that self-play trains or is judged on. It is
  the analogue of the paper's Zephyr-SFT starting point.

Weights are stored in float16 and meant to be loaded in float32:
`AutoModelForCausalLM.from_pretrained(tspin.micro.folder("warm"), dtype=torch.float32)`.

## Recipe

    {command} --out tspin/micro

trains in {minutes} minutes and rewrites this file ({versions}). The loss is on
answer tokens only.

- pre-training: `{pretrain}`
- warm start: `{warm}`

The same seed gives the same weights bit for bit on the same machine and versions.

## Exact match

In percent, one response to each of the first n prompts of the split (seed as above). The standard
error is binomial over prompts. The last column is the same policy before its weights were rounded
to float16.

| policy | split | decoding | n | exact match | s.e. | before rounding |
|---|---|---|---|---|---|---|
{rows}

## Weights

| policy | sha256 of model.safetensors |
|---|---|
{digests}
"""
