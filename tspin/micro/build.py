"""Rebuilds the micro policies from nothing: pre-training, then a supervised warm start.

Pre-training teaches the form of an answer and every operation, but hardly which one is asked: the
base policy can do the task and rarely does what it is told. That is left to teach.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from tspin.micro import task, tokenizer

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

IGNORE = -100  # target of a position that adds nothing to the loss


@dataclass(frozen=True)
class Recipe:
    """How `train` passes over its examples: AdamW, linear warm-up to lr, cosine decay to 0."""

    lr: float
    batch_size: int
    warmup_steps: int
    epochs: int = 1
    clip: float = 1.0  # norm of the gradient


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


Example = tuple[list[int], list[int]]  # ids of the prompt, ids of the answer with its EOS


def build(out: Path, *, steps: int, seed: int, threads: int, num_eval: int) -> None:
    """Write out/base, out/warm and the model card out/README.md.

    steps     of pre-training; seed fixes weights bit for bit, on one machine and number of threads
    num_eval  test prompts behind the card's figures; validation uses at most 320 of them
    """
    started = time.perf_counter()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    tok = tokenizer.build()

    log.info("pre-training: %d steps of %d pairs", steps, PRETRAIN.batch_size)
    model = new_policy(tok)
    corpus = pretraining_pairs(steps * PRETRAIN.batch_size, seed)
    train(model, encode(tok, corpus), PRETRAIN, seed=seed)
    base = save(model, tok, out / "base")

    # From the rounded base, as anyone would who starts from the shipped folder.
    log.info("warm start: %d epochs on %d pairs", WARM.epochs, NUM_WARM)
    warm_model = load(base)
    train(warm_model, encode(tok, task.pairs("warm", NUM_WARM, seed)), WARM, seed=seed)
    warm = save(warm_model, tok, out / "warm")
    seconds = time.perf_counter() - started

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
    write(out / "README.md", text)
    log.info("wrote %s, %s and the model card beside them", base, warm)


def new_policy(tok: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama of about half a million parameters with random weights."""
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tok.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    return LlamaForCausalLM(config)


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


def encode(tok: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]) -> list[Example]:
    """Ids of each rendered prompt, and of each answer followed by EOS."""
    prompts = tok([tokenizer.render(prompt) for prompt, _ in pairs])["input_ids"]
    answers = tok([answer for _, answer in pairs])["input_ids"]
    return [
        (prompt, [*answer, tok.eos_token_id])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def train(model: LlamaForCausalLM, examples: list[Example], recipe: Recipe, *, seed: int) -> None:
    """Maximise the mean log-likelihood of answer tokens, in place.

    Every epoch passes over the examples in a new order and leaves out the last short batch.
    """
    steps_per_epoch = len(examples) // recipe.batch_size
    num_steps = recipe.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, num_steps, recipe.warmup_steps)
    )
    rng = random.Random(f"train/{seed}")
    model.train()
    progress = tqdm(total=num_steps, unit="step", mininterval=5)
    for _ in range(recipe.epochs):
        order = rng.sample(range(len(examples)), len(examples))
        for step in range(steps_per_epoch):
            start = step * recipe.batch_size
            ids, targets = collate([examples[i] for i in order[start : start + recipe.batch_size]])
            logits = model(input_ids=ids).logits
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORE
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            progress.update()
            if step % 50 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    progress.close()
    model.eval()


def lr_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Fraction of the peak learning rate at a step: linear warm-up times cosine decay to 0."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def collate(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and targets, (batch, length), padded on the right; targets are IGNORE off the answer.

    No attention mask is needed: attention is causal, so no answer sees the padding behind it.
    """
    length = max(len(prompt) + len(answer) for prompt, answer in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    targets = torch.full((len(examples), length), IGNORE)
    for row, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        targets[row, len(prompt) : end] = torch.tensor(answer)
    return ids, targets


def save(model: LlamaForCausalLM, tok: PreTrainedTokenizerBase, path: Path) -> Path:
    """Write a complete transformers folder with float16 weights; the model itself stays float32."""
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    rounded = LlamaForCausalLM(model.config).half()
    rounded.load_state_dict(model.state_dict())
    # Sampling at temperature 1 from the whole distribution, unless the caller says otherwise.
    rounded.generation_config = GenerationConfig(
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id
    )
    rounded.save_pretrained(partial)
    tok.save_pretrained(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    return path


def load(path: Path) -> LlamaForCausalLM:
    """The policy of a folder, in float32."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


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
    responses = respond(model, tok, [prompt for prompt, _ in pairs], greedy=greedy, seed=seed)
    verdicts = [
        task.check(prompt, response) is True
        for (prompt, _), response in zip(pairs, responses, strict=True)
    ]
    return sum(verdicts) / len(verdicts)


@torch.no_grad()
def respond(
    model: LlamaForCausalLM,
    tok: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    greedy: bool,
    seed: int,
    batch_size: int = 200,
) -> list[str]:
    """One response to each prompt: greedy, or sampled at temperature 1 from all tokens."""
    torch.manual_seed(seed)
    decoding = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
    responses = []
    for start in range(0, len(prompts), batch_size):
        texts = [tokenizer.render(prompt) for prompt in prompts[start : start + batch_size]]
        inputs = tok(texts, padding=True, padding_side="left", return_tensors="pt")
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=MAX_NEW_TOKENS,
            **decoding,
        )
        new = ids[:, inputs["input_ids"].shape[1] :]
        responses += tok.batch_decode(new, skip_special_tokens=True)
    return responses


def num_parameters(model: nn.Module) -> int:
    """Distinct parameters: the tied embedding counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def digest(path: Path) -> str:
    """The sha256 of a folder's weights."""
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


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


def write(path: Path, text: str) -> None:
    """Write a text file that is complete as soon as it exists."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="ascii")
    os.replace(partial, path)
