"""Architectures of the hub as tiny random models, and arithmetic that stays in float64."""

import torch
import transformers
from torch.overrides import TorchFunctionMode

SIZE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip
HEADS = {"head_dim": 8}
GEMMA = {**HEADS, "query_pre_attn_scalar": 8, "sliding_window": 4}
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "initializer_range": 0.3}  # fmt: skip

FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-untied-bias": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 4}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 3,
                               "max_window_layers": 1}),
    "qwen3": ("Qwen3", HEADS),
    "gemma": ("Gemma", HEADS),
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3Text", {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "phi": ("Phi", {}),  # its head has a bias
    "phi3": ("Phi3", {}),
    "olmo2": ("Olmo2", {}),
    "granite": ("Granite", {"logits_scaling": 3.0}),
    "cohere": ("Cohere", {"logit_scale": 0.25}),
    "gpt2": ("GPT2", GPT2),  # absolute positions
    "gpt-neox": ("GPTNeoX", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "sliding_window": None}),
}  # fmt: skip
REFUSED = {
    "gpt-oss": ("GptOss", {**HEADS, "num_local_experts": 2, "num_experts_per_tok": 2}),  # sinks
    "bloom": ("Bloom", {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4}),  # ALiBi
    "mamba": ("Mamba", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}),
    "qwen3-next": ("Qwen3Next", {**HEADS, "num_experts": 2, "num_experts_per_tok": 1,
                                 "layer_types": ["linear_attention", "full_attention"]}),
}  # fmt: skip


def family(name, *, dtype=torch.float64, seed=0):
    """A tiny random model of that architecture, in evaluation mode."""
    kind, options = {**FAMILIES, **REFUSED}[name]
    own = kind in ("GPT2", "Bloom", "Mamba")
    config = getattr(transformers, f"{kind}Config")(**({} if own else SIZE) | options)
    torch.manual_seed(seed)
    # Before 5.23 the default leaves the soft-cap of the scores out.
    capped = "attn_logit_softcapping" in options
    how = {"attn_implementation": "eager"} if capped else {}
    model = transformers.AutoModelForCausalLM.from_config(config, **how)
    if hasattr(config, "num_local_experts"):
        model.set_experts_implementation("eager")  # the default has no float64
    for name, parameter in model.named_parameters():
        if "bias" in name:  # hub code starts them at 0
            torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


class Exact(TorchFunctionMode):
    """Keeps float64 where the hub's code goes to float32 (norms, softmax): else one compares
    rounding."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        wide = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        if wide and func in (torch.Tensor.to, torch.Tensor.float):
            if func is torch.Tensor.float or torch.float32 in (*args[1:], kwargs.get("dtype")):
                return args[0]
        if wide and kwargs.get("dtype") == torch.float32:
            kwargs = kwargs | {"dtype": torch.float64}
        if func in PRODUCTS and torch.float64 in {x.dtype for x in args}:
            args = tuple(x.double() for x in args)  # angles, of positions that begin as float32
        return func(*args, **kwargs)
