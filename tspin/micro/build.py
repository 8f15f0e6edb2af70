"""Rebuilds the micro policies from nothing: pre-training, then a supervised warm start.

Pre-training teaches the form of an answer and every operation, but hardly which one is asked: the
base policy can do the task and rarely does what it is told. That is left to teach.
"""

from __future__ import annotations

import random
from pathlib import Path

from tspin.micro import task, tokenizer, training
from tspin.micro.training import Recipe, WarmStart, reproducible

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

STEPS = 2000  # of pre-training
PRETRAIN = Recipe(lr=2e-3, batch_size=128, warmup_steps=50)
WARM = WarmStart(512, Recipe(lr=8e-4, batch_size=16, warmup_steps=6, epochs=2))


def build(out: Path, *, steps: int | None = None, seed: int = 0, threads: int = 1) -> None:
    """Write out/base and out/warm, in place of what is there.

    steps  of pre-training; None: STEPS. seed fixes weights bit for bit, on one machine and number
           of threads
    """
    num_pairs = (steps or STEPS) * PRETRAIN.batch_size
    with reproducible(seed=seed, threads=threads):
        training.build(
            out,
            tokenizer.build(task.forms()),
            (lambda: pretraining_pairs(num_pairs, seed), PRETRAIN),
            {"warm": (lambda: task.pairs("warm", WARM.num_pairs, seed), WARM.recipe)},
            seed=seed,
            keep=False,
        )


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
