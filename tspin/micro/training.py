"""What both micro tasks do to make their policies: a model, a training loop, folders, samples."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from tspin.micro import tokenizer
from tspin.tools.files import atomic, file_digest
from tspin.tools.terminal import progress
from tspin.tools.threads import threads as torch_threads

log = logging.getLogger("tspin")

IGNORE = -100  # target of a position that adds nothing to the loss
ENCODED_AT_ONCE = 4096  # pairs: the tokenizer's own records of a text are large


@dataclass(frozen=True)
class Recipe:
    """How `train` passes over its examples: AdamW, linear warm-up to lr, cosine decay to 0."""

    lr: float
    batch_size: int
    warmup_steps: int
    epochs: int = 1
    clip: float = 1.0  # norm of the gradient


@dataclass(frozen=True)
class WarmStart:
    """Supervised fine-tuning of the base policy on the first pairs of the split "warm"."""

    num_pairs: int
    recipe: Recipe


Pairs = Callable[[], list[tuple[str, str]]]  # prompts and answers, made when they are needed
Example = tuple[list[int], list[int]]  # ids of the prompt, ids of the answer with its EOS


@contextmanager
def reproducible(*, seed: int, threads: int) -> Iterator[None]:
    """Within, weights depend on the seed and the number of threads alone; behind, all is as before.

    Rounding, and so the weights, depend on the number of threads.
    """
    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build(
    out: Path,
    tok: PreTrainedTokenizerBase,
    pretraining: tuple[Pairs, Recipe],
    warm_starts: Mapping[str, tuple[Pairs, Recipe]],
    *,
    seed: int,
    keep: bool,
) -> None:
    """Pre-train out/base; fine-tune it on the pairs of each warm start, in a folder of its name.

    Each is complete when it exists. keep: what is there is left as it is, else it is replaced.
    A warm start begins with the base as stored, rounded: as anyone would who reads that folder.
    """
    for name, (pairs, recipe) in {"base": pretraining, **warm_starts}.items():
        if not (keep and (out / name).exists()):
            model = new_policy(tok) if name == "base" else load(out / "base")
            examples = encode(tok, pairs())
            log.info("%s: %d epochs on %d pairs", out / name, recipe.epochs, len(examples))
            train(model, examples, recipe, seed=seed, label=name)
            save(model, tok, out / name)


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


def encode(tok: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[Example]:
    """Ids of each rendered prompt, and of each answer followed by EOS."""
    examples: list[Example] = []
    for start in range(0, len(pairs), ENCODED_AT_ONCE):
        some = pairs[start : start + ENCODED_AT_ONCE]
        prompts = tok([tokenizer.render(prompt) for prompt, _ in some])["input_ids"]
        answers = tok([answer for _, answer in some])["input_ids"]
        for prompt, answer in zip(prompts, answers, strict=True):
            examples.append((prompt, [*answer, tok.eos_token_id]))
    return examples


def train(
    model: LlamaForCausalLM,
    examples: list[Example],
    recipe: Recipe,
    *,
    seed: int,
    label: str = "training",
) -> None:
    """Maximise the mean log-likelihood of answer tokens, in place.

    Every epoch passes over the examples in a new order and leaves out the last short batch.
    label  beside the progress bar
    """
    steps_per_epoch = len(examples) // recipe.batch_size
    num_steps = recipe.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, num_steps, recipe.warmup_steps)
    )
    rng = random.Random(f"train/{seed}")
    model.train()
    with progress(num_steps, label, "step") as bar:
        for _ in range(recipe.epochs):
            order = rng.sample(range(len(examples)), len(examples))
            for step in range(steps_per_epoch):
                chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                ids, targets = collate([examples[i] for i in chosen])
                logits = model(input_ids=ids).logits
                loss = nn.functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORE
                )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                optimizer.step()
                schedule.step()
                bar.update(loss=loss.item())
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


def save(model: LlamaForCausalLM, tok: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a complete transformers folder with float16 weights; the model itself stays float32."""
    rounded = LlamaForCausalLM(model.config).half()
    rounded.load_state_dict(model.state_dict())
    # Sampling at temperature 1 from the whole distribution, unless the caller says otherwise.
    rounded.generation_config = GenerationConfig(
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id
    )
    with atomic(path) as temporary:
        rounded.save_pretrained(temporary)
        tok.save_pretrained(temporary)


def load(path: Path) -> LlamaForCausalLM:
    """The policy of a folder, in float32."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def mean_logp(model: LlamaForCausalLM, examples: list[Example], *, batch_size: int = 200) -> float:
    """Log-likelihood of an answer with its EOS, in nats, averaged over the examples."""
    total = 0.0
    for start in range(0, len(examples), batch_size):
        ids, targets = collate(examples[start : start + batch_size])
        logits = model(input_ids=ids).logits
        total -= nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1),
            targets[:, 1:].flatten(),
            ignore_index=IGNORE,
            reduction="sum",
        ).item()
    return total / len(examples)


@dataclass(frozen=True)
class Response:
    """What a policy said, and whether it ended by itself."""

    text: str
    finished: bool


@torch.no_grad()
def respond(
    model: LlamaForCausalLM,
    tok: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float | None,
    seed: int = 0,
    batch_size: int = 200,
) -> list[Response]:
    """One response to each prompt: greedy without a temperature, else sampled from all tokens."""
    torch.manual_seed(seed)
    decoding = (
        {"do_sample": False}
        if temperature is None
        else {"do_sample": True, "top_k": 0, "temperature": temperature}
    )
    responses: list[Response] = []
    for start in range(0, len(prompts), batch_size):
        texts = [tokenizer.render(prompt) for prompt in prompts[start : start + batch_size]]
        inputs = tok(texts, padding=True, padding_side="left", return_tensors="pt")
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            **decoding,
        )
        new = ids[:, inputs["input_ids"].shape[1] :]
        finished = (new == tok.eos_token_id).any(dim=1).tolist()
        texts = tok.batch_decode(new, skip_special_tokens=True)
        responses += map(Response, texts, finished)
    return responses


def share_right(
    check: Callable[[str, str], bool | None], prompts: Sequence[str], responses: Sequence[Response]
) -> float:
    """The fraction of the prompts whose response is right and ended by itself."""
    verdicts = [
        response.finished and check(prompt, response.text) is True
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return sum(verdicts) / len(verdicts)


def digest(path: Path) -> str:
    """The sha256 of a folder's weights."""
    return file_digest(path / SAFE_WEIGHTS_NAME)
