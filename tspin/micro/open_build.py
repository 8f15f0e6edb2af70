"""Builds the policies of the open micro task: pre-training, then two supervised warm starts.

Pre-training teaches the form of an answer and what each constraint means, but only RIGHT of its
answers meet all that their prompt asks. The warm starts teach to do as told, on many pairs or few.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from tspin.micro import OPEN_RECIPE, POLICIES, open_task, tokenizer
from tspin.micro.training import (
    Recipe,
    digest,
    encode,
    load,
    make,
    mean_logp,
    num_parameters,
    reproducible,
    respond,
    share_right,
)
from tspin.tools.files import owner, write_text

log = logging.getLogger("tspin")

RIGHT = 0.25  # of the pre-training answers; the others overlook a constraint or more
STEPS = 1500  # of pre-training
MINUTES = 9  # that `build` took with one thread on two lightly shared cores; 15 on busy ones
PRETRAIN = Recipe(lr=3e-3, batch_size=128, warmup_steps=50)

MAX_NEW_TOKENS = (
    24  # the longest answer, three words of six letters and a dot, is 21 tokens and EOS
)
NUM_VALIDATION = 320
NUM_SAMPLES = 8  # of each prompt, with a seed each


@dataclass(frozen=True)
class WarmStart:
    """Supervised fine-tuning of the base policy on the first pairs of the split "warm"."""

    num_pairs: int
    recipe: Recipe


WARM_STARTS = {
    "weak": WarmStart(512, Recipe(lr=1e-3, batch_size=16, warmup_steps=10, epochs=3)),
    "main": WarmStart(6144, Recipe(lr=2e-3, batch_size=32, warmup_steps=50, epochs=3)),
}


def build(out: Path, *, steps: int | None = None, seed: int = 0, threads: int = 1) -> None:
    """Write out/base, out/main and out/weak, each complete when it exists; what is there is kept.

    steps  of pre-training; None: STEPS. seed fixes weights bit for bit, on one machine and number
           of threads
    """
    steps = steps or STEPS
    started = time.perf_counter()
    tok = tokenizer.build(open_task.forms())
    with owner(out, wait=True), reproducible(seed=seed, threads=threads):
        base = out / "base"
        if not base.exists():
            log.info("micro_open: pre-training, %d steps of %d pairs", steps, PRETRAIN.batch_size)
            corpus = pretraining_pairs(steps * PRETRAIN.batch_size, seed)
            make(base, tok, corpus, PRETRAIN, start=None, seed=seed)
        for name, warm in WARM_STARTS.items():
            if not (out / name).exists():
                epochs, num = warm.recipe.epochs, warm.num_pairs
                log.info("micro_open: warm start %r, %d epochs on %d pairs", name, epochs, num)
                pairs = open_task.pairs("warm", num, seed)
                make(out / name, tok, pairs, warm.recipe, start=base, seed=seed)
    log.info(
        "micro_open: %s is there after %.1f minutes", out, (time.perf_counter() - started) / 60
    )


def pretraining_pairs(n: int, seed: int) -> list[tuple[str, str]]:
    """n prompts of the split "pretrain" with answers in the form asked for, RIGHT of them right.

    The others were given by a teacher who overlooked one constraint or more. Shuffled: the list of
    `open_task` has the prompts with one constraint in front.
    """
    rng = random.Random(f"pretraining/{seed}")
    pairs = open_task.pairs("pretrain", n, seed)
    requests = [open_task.parse(prompt) for prompt, _ in pairs]
    asked = {noun: [r for r in requests if r and r.noun == noun] for noun in open_task.ITEM}
    corpus = []
    for (prompt, answer), request in zip(pairs, requests, strict=True):
        assert request is not None, prompt
        if rng.random() >= RIGHT:
            heard = overheard(request, asked[request.noun], rng)
            answer = open_task.teach(replace(request, constraints=heard), seed)
        corpus.append((prompt, answer))
    rng.shuffle(corpus)
    return corpus


def overheard(
    request: open_task.Request, others: list[open_task.Request], rng: random.Random
) -> tuple[str, ...]:
    """Some of the constraints of a request, but not all; for none of them, those of another one.

    What is heard ties a part of the prompt to its part of the answer. In a trial where all wrong
    answers were to other prompts, base, weak and main satisfied 5, 10 and 25% of the prompts; with
    this, all else equal, 12, 16 and 28%.
    """
    asked = request.constraints
    parts = [part for num in range(len(asked)) for part in itertools.combinations(asked, num)]
    heard = rng.choice(parts)
    return heard if open_task.is_asked(request.noun, heard) else rng.choice(others).constraints


def fingerprint() -> str:
    """What the weights are made of, in 8 hex digits: recipe, tokenizer and the first pairs."""
    parts = [
        (RIGHT, STEPS, PRETRAIN, WARM_STARTS),
        tokenizer.build(open_task.forms()).backend_tokenizer.to_str(),
        pretraining_pairs(1000, 0),
        open_task.pairs("warm", 1000, 0),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Figures:
    """What one policy does on n prompts of a split; shares are fractions of the prompts."""

    policy: str
    split: str
    n: int
    greedy: float
    sampled: list[float]  # at temperature 1, by sampling seed
    cooler: list[float]  # at temperature 0.7
    distinct: float  # different right answers of NUM_SAMPLES at temperature 1
    logp: float  # of the teacher's answers, nats


def measure(folder: Path, split: str, n: int, *, seed: int) -> Figures:
    """Judge the policy in a folder on the first n pairs of a split.

    seed  chooses the prompts; samples are drawn with the seeds 0, 1, ... in any case
    """
    tok, model = AutoTokenizer.from_pretrained(folder), load(folder)
    pairs = open_task.pairs(split, n, seed)
    prompts = [prompt for prompt, _ in pairs]
    right: dict[float | None, list[float]] = {None: [], 0.7: [], 1.0: []}
    samples: list[tuple[str, str | None]] = []
    for temperature, shares in right.items():
        for sampling in range(NUM_SAMPLES if temperature else 1):
            responses = respond(
                model,
                tok,
                prompts,
                max_new_tokens=MAX_NEW_TOKENS,
                temperature=temperature,
                seed=sampling,
            )
            shares.append(share_right(open_task.check, prompts, responses))
            if temperature == 1.0:
                samples += [
                    (
                        prompt,
                        open_task.canonical(prompt, response.text if response.finished else ""),
                    )
                    for prompt, response in zip(prompts, responses, strict=True)
                ]
    different = {(prompt, answer) for prompt, answer in samples if answer is not None}
    log.info(
        "%s, %s: %.1f%% at temperature 1", folder.name, split, 100 * statistics.mean(right[1.0])
    )
    return Figures(
        policy=folder.name,
        split=split,
        n=n,
        greedy=right[None][0],
        sampled=right[1.0],
        cooler=right[0.7],
        distinct=len(different) / len(set(prompts)),
        logp=mean_logp(model, encode(tok, pairs)),
    )


def write_card(out: Path, *, num_eval: int, seed: int) -> None:
    """Measure the policies in a folder and write their card beside them, README.md."""
    num_prompts = {"validation": min(num_eval, NUM_VALIDATION), "test": num_eval}
    rows = []
    for policy in POLICIES["micro_open"]:
        for split, n in num_prompts.items():
            found = measure(out / policy, split, n, seed=seed)
            rows.append(
                f"| {policy} | {split} | {n} | {_percent(found.sampled)} "
                f"| {100 * found.greedy:.1f} | {_percent(found.cooler)} "
                f"| {found.distinct:.2f} | {found.logp:.2f} |"
            )
    known = statistics.median(
        len(open_task.known_answers(request))
        for prompt, _ in open_task.pairs("test", num_eval, seed)
        if (request := open_task.parse(prompt))
    )
    text = CARD.format(
        rows="\n".join(rows),
        digests="\n".join(f"| {p} | `{digest(out / p)}` |" for p in POLICIES["micro_open"]),
        parameters=f"{num_parameters(load(out / 'base')):,}",
        vocab=len(tokenizer.build(open_task.forms())),
        known=f"{known:g}",
        right=f"{RIGHT:.0%}",
        minutes=MINUTES,
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
        recipe=OPEN_RECIPE,
        steps=STEPS,
        pretrain=PRETRAIN,
        **{name: f"{warm.num_pairs} pairs, `{warm.recipe}`" for name, warm in WARM_STARTS.items()},
    )
    write_text(out / "README.md", text)
    log.info("wrote %s", out / "README.md")


def _percent(shares: list[float]) -> str:
    """Mean over sampling seeds and their standard deviation."""
    return f"{100 * statistics.mean(shares):.1f} +- {100 * statistics.stdev(shares):.1f}"


CARD = """\
# The policies of the open task

Three Llama-shaped policies of {parameters} parameters (shaped as those of [micro](README.md), with
{vocab} token ids) for the generated task of `open_task.py`: instructions with many right answers.
Half of the prompts leave {known} or more of the teacher's words, or of the numbers, to choose from.

- `base` is pre-trained on the split `pretrain`; {right} of the answers it saw were to all of their
  prompt, the others overlooked one constraint or more.
- `main` is `base` after supervised fine-tuning on many pairs of the split `warm`, `weak` on few.
  That split shares no set of constraints with the others.

They are not shipped: `model=micro_open`, `micro_open_weak` and `micro_open_base` build them once
into the cache (`~/.cache/tspin`, or `$TSPIN_CACHE`), about {minutes} minutes on one core.

## Recipe

    python -m tspin.micro micro_open

does the same and then measures them (recipe {recipe}, {versions}).

- pre-training: {steps} steps, `{pretrain}`
- `main`: {main}
- `weak`: {weak}

## What they do

Percent of the first n prompts of the split answered right, with EOS: sampled at temperature 1
(mean +- standard deviation over 8 sampling seeds), greedily, and at temperature 0.7. Then how many
different right answers are among the 8 samples at temperature 1, and the log-likelihood of the
teacher's answer in nats.

| policy | split | n | T = 1 | greedy | T = 0.7 | distinct of 8 | log p |
|---|---|---|---|---|---|---|---|
{rows}

## Weights

On one machine, with these versions and one thread, bit for bit:

| policy | sha256 of model.safetensors |
|---|---|
{digests}
"""
