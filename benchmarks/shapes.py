"""What is measured: shapes of models, lengths of texts, and the cases made of them.

Weights and ids are random: no time below depends on either, and nothing has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tspin.data.triplets import Triplet
from tspin.objectives import Role
from tspin.planning.shapes import KNOWN, Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EOS_TOKEN, PAD_TOKEN, UNKNOWN = "</s>", "<pad>", "<unk>"
ROLES: dict[str, tuple[Role, ...]] = {
    "sft": ("annotated",),
    "pairs": ("annotated", "synthetic"),
    "triplets": ("annotated", "synthetic", "proto"),
}
LONGEST = 256  # tokens of a response: decoding.max_new_tokens
SAMPLED = 128  # of one that is sampled here: the same of model=smollm2
# The 0th, 5th, ... 100th percentile of 999 instructions and their answers in SmolLM2's tokens; 9
# more per prompt for the template, 1 more per answer for EOS. Cut at LONGEST: 28 and 126 on average
ALPACA = (
    (13, 16, 17, 18, 19, 20, 20, 21, 22, 23, 24, 25, 26, 28, 29, 31, 34, 37, 42, 52, 178),
    (2, 9, 12, 15, 20, 26, 34, 48, 65, 85, 107, 130, 162, 189, 219, 260, 291, 322, 363, 402, 595),
)
LONG = 9  # assumed: prompts of ultrachat are so many times as long, 256 on average


@dataclass(frozen=True)
class Llama(Shape):
    """A model of that shape, without bias, and its tokenizer."""

    def model(self, device: str) -> PreTrainedModel:
        """With random float32 weights."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            tie_word_embeddings=self.tied,
            max_position_embeddings=4096,
        )
        with torch.device(device):
            return LlamaForCausalLM(config).eval()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The word "w7" is id 7: text of exactly the ids wanted, for libraries that take text."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = {PAD_TOKEN: 0, UNKNOWN: 1, EOS_TOKEN: self.vocab - 1}
        words |= {f"w{i}": i for i in range(2, self.vocab - 1)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=EOS_TOKEN, pad_token=PAD_TOKEN, unk_token=UNKNOWN
        )


def _small(vocab: int) -> Llama:
    return Llama(vocab, 256, 688, layers=4, heads=4, kv_heads=4, head_dim=64, tied=True)


def _known(name: str) -> Llama:
    return Llama(**asdict(KNOWN[name]))


SHAPES = {
    "tiny": Llama(512, 32, 64, layers=2, heads=2, kv_heads=1, head_dim=16, tied=True),
    "v2k": _small(2048),
    "v8k": _small(8192),
    "v32k": _small(32768),
    "v49k": _small(49152),
    "v128k": _small(128256),
    "smol": _known("HuggingFaceTB/SmolLM2-135M-Instruct"),
    "mistral": _known("mistralai/Mistral-7B-v0.1"),
}


@dataclass(frozen=True)
class Case:
    """One kind of work on one shape, done in several ways that take turns.

    kind     sft, pairs, triplets: optimiser steps; generation; iteration; rows; matmul
    lengths  "alpaca", "long", or tokens of every prompt / response, "512/64"
    ways     names in benchmarks.ways, ours first
    batch    examples of an optimiser step, in one micro-batch; rows at a time in generation
    alone    ways one after the other: together they would not fit into memory
    usual    whether it is measured without being asked for by name
    apart    whether a step of ours is taken apart (benchmarks.parts)
    """

    name: str
    kind: str
    shape: str
    lengths: str
    ways: tuple[str, ...]
    batch: int = 8
    steps: int = 1
    rounds: int = 5
    alone: bool = False
    device: str = "cpu"
    longest: int = 4096  # no prompt or response is longer
    usual: bool = True
    apart: bool = False

    @cached_property
    def model_shape(self) -> Llama:
        return SHAPES[self.shape]

    @property
    def roles(self) -> tuple[Role, ...]:
        return ROLES[self.kind] if self.kind in ROLES else ROLES["pairs"]

    @property
    def square(self) -> int:
        """The width of the matrices of matmul."""
        return 2 * self.model_shape.hidden

    def triplets(self, seed: int) -> list[Triplet]:
        """The examples of a round: a function of the seed. Every response ends with EOS."""
        random, eos = np.random.default_rng(seed), self.model_shape.vocab - 1

        def ids(length: int) -> list[int]:
            return random.integers(2, eos, length).tolist()

        triplets = []
        for i in range(self.batch * self.steps):
            prompt, *responses = self._lengths(random)
            texts = ([*ids(n - 1), eos] for n in responses)
            by_role = dict(zip(ROLES["triplets"], texts, strict=True))
            triplets.append(Triplet(f"{seed}-{i}", "train", 0, ids(prompt), by_role))
        return triplets

    def _lengths(self, random: np.random.Generator) -> list[int]:
        """Of a prompt and its three responses, drawn independently."""
        if self.lengths in ("alpaca", "long"):
            longer = LONG if self.lengths == "long" else 1
            grid = np.linspace(0, 1, len(ALPACA[0]))
            prompt = longer * float(np.interp(random.random(), grid, ALPACA[0]))
            responses = np.interp(random.random(3), grid, ALPACA[1])
            lengths = [prompt, *np.minimum(responses, LONGEST).tolist()]
        else:
            of_prompt, of_response = map(int, self.lengths.split("/"))
            lengths = [of_prompt, *[of_response] * 3]
        return [max(1, min(round(n), self.longest)) for n in lengths]


def ends(triplets: Sequence[Triplet]) -> list[int]:
    """Tokens of each response: those of the annotated one, so that all ways sample as many."""
    return [min(len(t.responses["annotated"]), SAMPLED) for t in triplets]


def flops(shape: Shape, triplets: Sequence[Triplet], roles: Sequence[Role]) -> float:
    """What a training step cannot do without: every prompt once, no padding, nothing recomputed.

    6 operations per weight and token (2 forward, 4 backward), the head on response tokens only;
    12 per layer, channel and visible pair of query and key.
    """
    total = 0.0
    for triplet in triplets:
        prompt = len(triplet.prompt_ids)
        fed = [len(triplet.responses[role]) - 1 for role in roles]
        seen = prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in fed)
        tokens, targets = prompt + sum(fed), sum(n + 1 for n in fed)
        total += 6 * (shape.linear * tokens + shape.head * targets)
        total += 12 * shape.layers * shape.heads * shape.head_dim * seen
    return total


PLAIN = ("ours", "plain", "sorted")
PAIRS = ("ours", "plain", "trl_precomputed", "trl_live", "spin_way")
SAMPLING = ("sample", "dynamic", "products", "vllm", "llama")
CPU = [
    Case("triplets alpaca smol", "triplets", "smol", "alpaca", ("ours", "bfloat16", "plain"),
         alone=True, apart=True),
    Case("triplets alpaca v2k", "triplets", "v2k", "alpaca", PLAIN, steps=2),
    Case("triplets alpaca v49k", "triplets", "v49k", "alpaca", ("ours", "plain")),
    Case("triplets alpaca v128k", "triplets", "v128k", "alpaca", ("ours", "plain"), batch=2,
         usual=False),
    Case("triplets long v2k", "triplets", "v2k", "long", ("ours", "plain"), usual=False),
    *(
        Case(f"triplets {n} v2k", "triplets", "v2k", n, ("ours", "plain"), usual=n == "512/64")
        for n in ("32/512", "512/64", "1024/64")
    ),
    Case("pairs alpaca v2k", "pairs", "v2k", "alpaca", PAIRS),
    Case("pairs alpaca v49k", "pairs", "v49k", "alpaca", ("ours", "trl_precomputed"), usual=False),
    *(
        Case(f"generation smol {n}", "generation", "smol", "alpaca", SAMPLING, batch=n,
             usual=n in (16, 48))
        for n in (1, 8, 16, 48)
    ),
    Case("generation v2k", "generation", "v2k", "alpaca", ("sample", "dynamic", "static"),
         batch=48, usual=False),
    Case("iteration smol", "iteration", "smol", "alpaca", ("iterate", "glued"), batch=8,
         alone=True, rounds=3),
    *(
        Case(f"batch {n}", "triplets", "v2k", "128/128", ("ours",), batch=n, usual=False)
        for n in (2, 8, 32)
    ),
    *(
        Case(f"length {n}", "triplets", "v2k", f"{n}/{n}", ("ours",), usual=False)
        for n in (32, 96, 288)
    ),
    *(
        Case(f"vocabulary {n}", "triplets", n, "128/128", ("ours",), batch=4, usual=False)
        for n in ("v8k", "v32k", "v128k")
    ),
    *(
        Case(f"rows {n}", "rows", "v2k", "64/64", ("files",), batch=n, rounds=1, usual=n < 100_000)
        for n in (1000, 10_000, 100_000)
    ),
]  # fmt: skip
GPU = [
    Case("matmul", "matmul", "mistral", "1/1", ("matmul",), batch=1, device="cuda"),
    *(
        Case(f"{kind} {lengths} mistral", kind, "mistral", lengths,
             ("ours", "plain", *(["trl_precomputed"] if kind == "pairs" else [])),
             alone=True, device="cuda")
        for lengths in ("28/126", "256/256", "512/256", "1024/128")
        for kind in ROLES
    ),
    Case("generation mistral", "generation", "mistral", "alpaca", ("sample", "dynamic", "static"),
         batch=48, alone=True, device="cuda"),
]  # fmt: skip
GROWTH = ("batch", "length", "vocabulary", "rows")  # first words of cases that differ in one size


def quick(cases: Sequence[Case]) -> list[Case]:
    """In a second or two each: to see that they run, not how fast.

    One case for each kind of work and its ways, since at a tiny shape the others are the same; all
    of the rows, where growth is seen.
    """
    once = {case.name if case.kind == "rows" else (case.kind, case.ways): case for case in cases}
    return [
        replace(
            case, shape="tiny", rounds=2, longest=12, device="cpu",
            batch=case.batch // 100 if case.kind == "rows" else 2,
        )
        for case in once.values()
    ]  # fmt: skip
