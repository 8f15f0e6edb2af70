"""How large a model is, from its config.json: no weights, no torch.

Counted are Llama's relatives: attention with grouped keys, a gated MLP, RMSNorm. Any other
architecture is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tspin import micro
from tspin.config.run import LoraConfig, ModelConfig

TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Shape:
    """The numbers that a model's size follows from.

    biases  numbers of a layer's biases      norms  numbers of a layer's norms
    tied    head and embedding are one matrix
    """

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    biases: int = 0
    norms: int = 0

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of a layer's linear maps, by the names that LoRA targets."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear(self) -> int:
        """Weights of the layers' matrices: what LoRA adapts and bitsandbytes packs."""
        return self.layers * sum(a * b for a, b in self.matrices.values())

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        small = self.layers * (self.biases + self.norms) + self.hidden
        return self.linear + small + self.head * (1 if self.tied else 2)

    def trained(self, lora: LoraConfig | None) -> int:
        """Weights that are trained."""
        return self.parameters if lora is None else self.adapters(lora)

    def adapters(self, lora: LoraConfig) -> int:
        """Weights of LoRA's matrices. ValueError for a target that no layer has."""
        targets = list(self.matrices) if lora.targets == "all" else lora.targets
        for target in targets:
            if target not in self.matrices:
                raise ValueError(
                    f"model.lora.targets names {target}; layers here have "
                    f"{', '.join(self.matrices)}"
                )
        return self.layers * lora.rank * sum(sum(self.matrices[name]) for name in targets)


# As on the hub; for where it is out of reach.
_MISTRAL = Shape(32000, 4096, 14336, 32, 32, 8, 128, tied=False, norms=2 * 4096)
_SMOLLM2 = Shape(49152, 576, 1536, 30, 9, 3, 64, tied=True, norms=2 * 576)
_360M = replace(_SMOLLM2, hidden=960, intermediate=2560, layers=32, heads=15, kv_heads=5)
_17B = replace(_SMOLLM2, hidden=2048, intermediate=8192, layers=24, heads=32, kv_heads=32)
KNOWN = {
    "alignment-handbook/zephyr-7b-sft-full": _MISTRAL,
    "mistralai/Mistral-7B-v0.1": _MISTRAL,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM2,
    "HuggingFaceTB/SmolLM2-360M-Instruct": replace(_360M, norms=2 * 960),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": replace(_17B, norms=2 * 2048),
}


def folder_of(model: ModelConfig) -> Path:
    """Where model.path is, if it is a folder or a built-in policy."""
    task, colon, which = model.path.partition(":")
    builtin = colon and task in micro.POLICIES
    return micro.folder(which, task) if builtin else Path(model.path).expanduser()


def find(model: ModelConfig) -> Shape:
    """The shape of model.path: a folder, a model known here, or one in the hub's cache.

    Raises ValueError where there is no config.json to be had, or an architecture not counted.
    """
    folder = folder_of(model)
    if (folder / "config.json").exists():
        file = folder / "config.json"
        return of(json.loads(file.read_text(encoding="utf-8")), str(file))
    if model.path in KNOWN:
        return KNOWN[model.path]
    from huggingface_hub import try_to_load_from_cache

    cached = None
    if not folder.exists() and model.path.count("/") == 1:
        cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    if not isinstance(cached, str):
        raise ValueError(
            f"model.path={model.path} is no folder with a config.json, not in the hub's cache and "
            f"none of {', '.join(KNOWN)}: fetch it once, or give a folder"
        )
    return of(json.loads(Path(cached).read_text(encoding="utf-8")), cached)


def of(config: Mapping[str, Any], where: str) -> Shape:
    """The shape that a config.json says. where: the file, for errors"""
    kind = config.get("model_type")
    if kind not in TYPES:
        raise ValueError(f"{where} is a {kind}; sizes are known of {', '.join(TYPES)}")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    query, key = heads * head_dim, kv_heads * head_dim
    biases = query + 2 * key if config.get("attention_bias") or kind == "qwen2" else 0
    biases += hidden if config.get("attention_bias") else 0  # of the way out; qwen2 has none
    biases += 2 * config["intermediate_size"] + hidden if config.get("mlp_bias") else 0
    return Shape(
        vocab=config["vocab_size"],
        hidden=hidden,
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=bool(config.get("tie_word_embeddings")),
        biases=biases,
        norms=2 * hidden + (2 * head_dim if kind == "qwen3" else 0),
    )
