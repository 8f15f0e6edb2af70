"""Model families of the hub as folders: tiny random weights, a tokenizer, a template of their kind.

    path = folders.save("qwen3", tmp_path / "qwen3")    # for model.path=

Each has its family's own class in transformers and what is special of it; docs/models.md says what
works with which.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from support.families import templates
from support.families.tokenizers import byte_level, metaspace

LENGTH = 256  # tokens that a model takes
ROPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
}
HEADS = {"head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2}


@dataclass(frozen=True)
class Family:
    """What makes one family.

    title      as docs/models.md calls it
    special    what is special of it, there
    kind       of its classes in transformers: KIND + "Config"
    config     what is its own in the configuration
    tokenizer  makes its tokenizer
    chat       its chat template; None: it has none, and runs have model.template=alpaca
    stops      tokens that end a response by its generation config, beside EOS
    padded     the vocabulary of the weights is larger than the tokenizer's
    adapted    model.lora.targets, where "all" does not do
    """

    title: str
    special: str
    kind: str
    tokenizer: Callable[[], transformers.PreTrainedTokenizerFast]
    chat: str | None
    config: Mapping[str, Any] = field(default_factory=dict)
    stops: Sequence[str] = ()
    padded: bool = False
    adapted: Sequence[str] = ()

    @property
    def template(self) -> str:
        """The run's model.template."""
        return "alpaca" if self.chat is None else "chat"


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THOUGHTS = ("<think>", "</think>")
BRACKETS = ("[INST]", "[/INST]")
_brackets = partial(
    metaspace, BRACKETS, bos="<s>", eos="</s>", begins_with=["<s>"], word_start="first"
)
_gemma = partial(
    metaspace, ["<pad>", "<start_of_turn>", "<end_of_turn>"],
    bos="<bos>", eos="<eos>", pad="<pad>", begins_with=["<bos>"], word_start=None,
)  # fmt: skip
_chatml = partial(byte_level, pad="<|endoftext|>", eos="<|im_end|>")
LOCAL = {**HEADS, "query_pre_attn_scalar": 8, "sliding_window": 16}

FAMILIES = {
    "llama2": Family(
        "Llama 2",
        "[INST] as text, BOS, a word-start mark before every stretch of text",
        "Llama",
        partial(metaspace, (), bos="<s>", eos="</s>", begins_with=["<s>"], word_start="always"),
        templates.LLAMA_2,
        {"num_key_value_heads": 4},
    ),
    "llama3": Family(
        "Llama 3",
        "header tokens, a dated system turn, three ids that end a response",
        "Llama",
        partial(
            byte_level,
            ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
             "<|eom_id|>", "<|eot_id|>"],
            bos="<|begin_of_text|>", eos="<|eot_id|>", begins_with=["<|begin_of_text|>"],
        ),
        templates.LLAMA_3,
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                             "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 64}},
        stops=["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
    ),
    "mistral": Family(
        "Mistral",
        "a window of attention, [INST] as a control token, a space before the answer",
        "Mistral",
        _brackets,
        templates.MISTRAL,
        {"sliding_window": 16},
    ),
    "mixtral": Family(
        "Mixtral",
        "experts, of which a token takes two; the text of Mistral",
        "Mixtral",
        _brackets,
        templates.MISTRAL,
        {**EXPERTS, "num_local_experts": 4, "sliding_window": None},
    ),
    "qwen2": Family(
        "Qwen2",
        "ChatML with a default system turn, more rows in the weights than ids",
        "Qwen2",
        partial(_chatml, CHATML),
        templates.chatml("You are a helpful assistant."),
        stops=["<|im_end|>", "<|endoftext|>"],
        padded=True,
    ),
    "qwen3": Family(
        "Qwen3",
        "norms of queries and keys, thoughts (empty ones) before an answer",
        "Qwen3",
        partial(_chatml, CHATML, ordinary=THOUGHTS),
        templates.QWEN_3,
        HEADS,
        stops=["<|im_end|>", "<|endoftext|>"],
        padded=True,
    ),
    "qwen3-moe": Family(
        "Qwen3-MoE",
        "experts in every other layer; the text of Qwen3",
        "Qwen3Moe",
        partial(_chatml, CHATML, ordinary=THOUGHTS),
        templates.QWEN_3,
        {**HEADS, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 16,
         "decoder_sparse_step": 2},
        padded=True,
    ),
    "deepseek-r1": Family(
        "DeepSeek-R1 distilled",
        "a prompt that opens the thoughts, answers from which they are cut; a Qwen2 otherwise",
        "Qwen2",
        partial(
            byte_level, ["<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"],
            bos="<|begin|>", eos="<|end|>", pad="<|end|>", begins_with=["<|begin|>"],
            ordinary=THOUGHTS,
        ),
        templates.DEEPSEEK_R1,
        padded=True,
    ),
    "gemma2": Family(
        "Gemma 2",
        "soft caps, local and global layers, no system role, messages trimmed",
        "Gemma2",
        _gemma,
        templates.GEMMA_2,
        {**LOCAL, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
        stops=["<eos>", "<end_of_turn>"],
    ),
    "gemma3": Family(
        "Gemma 3",
        "local and global layers, each with rotations of its own; the system message in the user's",
        "Gemma3Text",
        _gemma,
        templates.GEMMA_3,
        {**LOCAL, "layer_types": ["sliding_attention", "full_attention"]},
        stops=["<eos>", "<end_of_turn>"],
    ),
    "phi3": Family(
        "Phi-3",
        "queries, keys and values in one matrix; control tokens that swallow what is behind them",
        "Phi3",
        partial(
            metaspace, ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
            bos="<s>", eos="<|endoftext|>", pad="<|endoftext|>", word_start="always",
            rstrip=["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        ),
        templates.PHI_3,
        {"sliding_window": None, "pad_token_id": None},
        stops=["<|endoftext|>", "<|assistant|>", "<|end|>"],
        padded=True,
    ),
    "olmo2": Family(
        "OLMo 2",
        "norms behind the layers; roles that are no control tokens",
        "Olmo2",
        partial(byte_level, ["<|endoftext|>"], bos="<|endoftext|>", eos="<|endoftext|>"),
        templates.OLMO_2,
        padded=True,
    ),
    "granite": Family(
        "Granite",
        "multipliers of embeddings, attention, residuals and logits; a default system turn",
        "Granite",
        partial(
            byte_level, ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"],
            bos="<|end_of_text|>", eos="<|end_of_text|>", pad="<|end_of_text|>",
        ),
        templates.GRANITE,
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5,
         "logits_scaling": 2.0},
    ),
    "smollm2": Family(
        "SmolLM2",
        "ChatML with a default system turn; a Llama otherwise, its head tied",
        "Llama",
        partial(_chatml, CHATML, bos="<|im_start|>"),
        templates.chatml("You are a small assistant."),
        {"tie_word_embeddings": True},
    ),
    "smollm3": Family(
        "SmolLM3",
        "layers without positions, a system turn with the mode of thinking",
        "SmolLM3",
        partial(_chatml, CHATML, ordinary=THOUGHTS),
        templates.SMOLLM_3,
        {"no_rope_layers": [1, 0], "pad_token_id": None},
    ),
    "gpt2": Family(
        "GPT-2",
        "learnt positions; no chat template: alpaca",
        "GPT2",
        partial(
            byte_level, ["<|endoftext|>"], bos="<|endoftext|>", eos="<|endoftext|>", pattern=None
        ),
        None,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH},
    ),
    "glm4": Family(
        "GLM-4",
        "two ids before every text; a turn ends where the next role begins",
        "Glm4",
        partial(
            byte_level,
            ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>",
             "<|observation|>"],
            eos="<|endoftext|>", pad="<|endoftext|>", begins_with=["[gMASK]", "<sop>"],
        ),
        templates.GLM_4,
        {**HEADS, "partial_rotary_factor": 0.5, "pad_token_id": None},
        stops=["<|endoftext|>", "<|user|>", "<|observation|>"],
    ),
    "cohere": Family(
        "Cohere",
        "attention and MLP side by side, logits scaled; roles as control tokens",
        "Cohere",
        partial(
            byte_level,
            ["<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
             "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"],
            bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>",
            begins_with=["<BOS_TOKEN>"],
        ),
        templates.COHERE,
        {"logit_scale": 0.25},
    ),
    "mamba": Family(
        "Mamba",
        "a state in place of attention; no chat template: alpaca",
        "Mamba",
        partial(byte_level, ["<|endoftext|>"], eos="<|endoftext|>", pad="<|endoftext|>"),
        None,
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4,
         "tie_word_embeddings": False, "initializer_range": 0.5},
        adapted=["in_proj", "x_proj"],
    ),
}  # fmt: skip
OWN_SIZES = ("GPT2", "Mamba")  # whose configurations have names of their own


def save(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Writes the family `name` to `folder`, as it would come from the hub. -> the folder"""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    tokenizer.chat_template = family.chat
    vocab_size = len(tokenizer)
    if family.padded:
        vocab_size = (vocab_size // 64 + 1) * 64
    config = getattr(transformers, f"{family.kind}Config")(
        **{
            "vocab_size": vocab_size,
            "initializer_range": 0.2,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **({} if family.kind in OWN_SIZES else ROPE),
            **family.config,
        }
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for place, parameter in model.named_parameters():
        if parameter.ndim == 1:  # of norms and biases, which start as ones and zeros
            scale = 0.1 if place.endswith("bias") else 0.5
            parameter.data += scale * torch.randn_like(parameter)
    if family.stops:
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(family.stops))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
