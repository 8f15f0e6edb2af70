"""Attention over a packed stream, put under the hub's own model code by AttentionInterface.

Installed once, the function serves a model both ways: with a stream it gathers each row's queries
and keys, without one it is transformers' scaled dot-product attention. It has to stay installed,
because gradient checkpointing calls it again in the backward pass. `packed.packed` compares the two
ways once per model, so that an architecture it does not fit is noticed, not assumed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tspin.logprobs.packing import Block, Stream, blocks

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NAME = "tspin_packed"
LAYERS = {"full_attention", "sliding_attention"}  # of config.layer_types
HALF = (torch.bfloat16, torch.float16)
FLASH_DEVICES = ("cuda",)
SHORT = 2**15  # queries times keys of a row whose scores may lie in memory
Mask = Tensor | None


def kernel(device: torch.device, *dtypes: torch.dtype) -> str:
    """What computes attention there, for queries, keys and values of these dtypes.

    -> "varlen_attn" (flash attention over rows of any length, part of torch) or "sdpa"
    """
    fits = device.type in FLASH_DEVICES and dtypes[0] in HALF and len({*dtypes}) == 1
    return "varlen_attn" if fits and _varlen_attn() is not None else "sdpa"


class Plan:
    """How the rows of one stream are attended to: made once, used by every layer.

    kernels  gets the names of what has attended, of `kernel`
    """

    def __init__(self, stream: Stream, kernels: set[str]) -> None:
        self.rows, self.device = stream.rows, stream.input_ids.device
        self.kernels = kernels
        self._masks: dict[tuple[int, int | None], Mask] = {}

    def prepare(self, dtype: torch.dtype, windows: set[int | None]) -> None:
        """Makes what the layers will ask for, outside of what is compiled of them.

        dtype    of queries, keys and values
        windows  of the layers' attention
        """
        if kernel(self.device, dtype) == "varlen_attn":
            _ = self.varlen
            return
        for index in range(len(self.blocks[0])):
            for window in windows:
                self.mask(index, window)

    @cached_property
    def blocks(self) -> tuple[list[Block], Tensor]:
        return blocks(self.rows, device=self.device)

    def mask(self, index: int, window: int | None) -> Mask:
        if (index, window) not in self._masks:
            self._masks[index, window] = self.blocks[0][index].mask(window)
        return self._masks[index, window]

    @cached_property
    def varlen(self) -> tuple[Any, ...]:
        """keys (sum of keys,), the ends of every row's queries and keys, the longest of both."""
        lengths = [row.length for row in self.rows], [row.num_keys for row in self.rows]
        ends = (
            torch.tensor([0, *accumulate(n)], dtype=torch.int32).to(self.device, non_blocking=True)
            for n in lengths
        )
        runs = [
            torch.arange(start, start + length)
            for row in self.rows
            for start, length in ((row.prefix_start, row.prefix), (row.start, row.length))
        ]
        return torch.cat(runs).to(self.device, non_blocking=True), *ends, *map(max, lengths)


def hidden_states(model: PreTrainedModel, stream: Stream, kernels: set[str]) -> Tensor:
    """The last layer's hidden states of the stream, as the head reads them. -> (tokens, size)

    kernels  gets the names of what has attended
    """
    plan, architecture = Plan(stream, kernels), model.config.get_text_config()
    kind = stream.input_ids.device.type
    autocast = torch.is_autocast_enabled(kind) and model.dtype != torch.float64
    dtype = torch.get_autocast_dtype(kind) if autocast else model.dtype
    if getattr(architecture, "attn_logit_softcapping", None) is not None:
        dtype = torch.float32  # which leaves the kernel that knows soft-caps
    plan.prepare(dtype, _windows(architecture))
    return model.base_model(
        input_ids=stream.input_ids,
        position_ids=stream.position_ids,
        # Four dimensions: "prepared, leave it alone". What is visible is in the plan.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=stream.input_ids.device),
        use_cache=False,
        packed_plan=plan,
    ).last_hidden_state[0]


def _windows(architecture: PretrainedConfig) -> set[int | None]:
    """Attention windows of the layers; None: a layer without one."""
    window = getattr(architecture, "sliding_window", None)
    kinds = getattr(architecture, "layer_types", None) or ["sliding_attention"]
    return {window if kind == "sliding_attention" else None for kind in kinds}


def install(model: PreTrainedModel) -> str | None:
    """Puts the function under the model. -> why it cannot be, or None"""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    before = model.config._attn_implementation
    if before == NAME:
        return None
    if before not in ("sdpa", "eager"):
        return f"its attention is {before}"
    if not model._can_set_attn_implementation():
        return "its attention cannot be set"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - LAYERS
    if kinds:
        return f"it has layers of {', '.join(sorted(kinds))}"
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        return str(error)
    return None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_plan: Plan | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of the stream's rows, or with no plan that of an ordinary batch.

    query (1, heads, num_tokens, size), key and value the same with the heads they have.
    -> (1, num_tokens, heads, size)
    """
    if s_aux is not None:
        raise NotImplementedError("packed attention does not know attention sinks (s_aux)")
    attend = partial(_attend, scale=scaling, dropout=dropout, softcap=softcap)
    if packed_plan is None and _is_one_token(query, attention_mask, softcap):
        # The queries that share a head of keys are rows of one call: it reads the keys once.
        queries = query.view(len(query), key.shape[1], -1, query.shape[3])
        mask = None if attention_mask is None else attention_mask[..., : key.shape[2]]
        output = scaled_dot_product_attention(
            queries, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
        return output.view(len(query), 1, query.shape[1], -1), None
    if packed_plan is None and softcap is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        # To the last bit what the model does without this function.
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if packed_plan is None:
        causal = attention_mask is None and query.shape[2] > 1
        output = attend(query, key, value, attention_mask, causal=causal)
        return output.transpose(1, 2).contiguous(), None
    query, key, value = (_in_autocast(x)[0].transpose(0, 1) for x in (query, key, value))
    chosen = kernel(query.device, query.dtype, key.dtype, value.dtype)
    if chosen == "varlen_attn" and softcap is None and not dropout:
        packed_plan.kernels.add(chosen)
        # Flash attention over rows of any length: no padding, and prompts' keys gathered once a
        # row. The kernel aligns a row's last query with its last key.
        varlen_attn = _varlen_attn()
        assert varlen_attn is not None
        keys, *ends_and_longest = packed_plan.varlen
        grouped = query.shape[1] != key.shape[1]
        if sliding_window is not None and sliding_window >= ends_and_longest[-1]:
            sliding_window = None  # it hides nothing, and plain causal attention is faster
        output = varlen_attn(
            query.contiguous(), key.index_select(0, keys), value.index_select(0, keys),
            *ends_and_longest, scale=scaling,
            window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
            **({"enable_gqa": True} if grouped and _wants_enable_gqa(varlen_attn) else {}),
        )  # fmt: skip
        return output[None], None
    outputs = []
    calls, order = packed_plan.blocks
    for index, block in enumerate(calls):
        mask = packed_plan.mask(index, sliding_window)
        queries, keys, values = (
            _take(x, places)
            for x, places in ((query, block.queries), (key, block.keys), (value, block.keys))
        )
        packed_plan.kernels.add("products" if _makes_scores(queries, keys, softcap) else "sdpa")
        output = attend(queries, keys, values, mask, causal=mask is None)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, order)[None], None


def _is_one_token(query: Tensor, mask: Mask, softcap: float | None) -> bool:
    """Whether rows that decode on a CPU attend with one query each, their mask alike for all heads.

    In bfloat16 that takes a fifth of the time of torch's own way with grouped heads.
    """
    alike = mask is None or mask.shape[1] == 1
    return softcap is None and query.device.type == "cpu" and query.shape[2] == 1 and alike


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask,
    *,
    causal: bool,
    scale: float | None,
    dropout: float,
    softcap: float | None,
) -> Tensor:
    """softmax(q k^T scale) v, (rows, heads, length, size), with fewer heads of keys than queries.

    softcap  scores s become softcap * tanh(s / softcap) (Gemma 2)
    """
    if _makes_scores(query, key, softcap):
        return _by_products(query, key, value, mask, causal, scale, dropout, softcap)
    grouped = query.shape[1] != key.shape[1]
    # On CUDA a mask and grouped heads together leave only the slow kernel.
    if grouped and mask is not None and query.is_cuda:
        times = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
        grouped = False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale,
        enable_gqa=grouped,
    )  # fmt: skip


def _makes_scores(query: Tensor, key: Tensor, softcap: float | None) -> bool:
    """Whether the scores are made, in memory: there is no other way (a soft-cap), or it is faster.

    On a CPU torch's own kernel takes four times as long for bfloat16, forth and back (rows of 45 to
    100 tokens, 9 heads of 64).
    """
    fits = query.shape[2] * key.shape[2] <= SHORT
    return softcap is not None or (fits and query.device.type == "cpu" and query.dtype in HALF)


def _by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask,
    causal: bool,
    scale: float | None,
    dropout: float,
    softcap: float | None,
) -> Tensor:
    """The same with the scores in memory, in float32 at least; heads that share keys together."""
    rows, heads, length, size = query.shape
    together = (rows, key.shape[1], -1)
    products = query.reshape(*together, size) @ key.transpose(2, 3)
    scores = products.to(torch.promote_types(query.dtype, torch.float32))
    scores = scores.view(rows, heads, length, -1) * (size**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = nn.functional.dropout(scores.softmax(-1).to(value.dtype), dropout)
    return (weights.view(*together, key.shape[2]) @ value).view(rows, heads, length, size)


def _in_autocast(x: Tensor) -> Tensor:
    """x in the dtype that autocast gives to matrix products, where it is on.

    Rotary embeddings and norms of queries and keys leave float32 beside values in bfloat16.
    """
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


@cache
def _varlen_attn() -> Callable[..., Any] | None:
    """None: torch before 2.11, which has no such function or one without scale and windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size"} <= names.keys() else None


@cache
def _wants_enable_gqa(varlen_attn: Callable[..., Any]) -> bool:
    """Whether grouped heads have to be announced, as from torch 2.12 on.

    The argument is a check in Python alone: flash attention is called without it, and takes the
    number of heads from the tensors. 2.11 calls it alike and has no such check.
    """
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _take(x: Tensor, places: Tensor) -> Tensor:
    """x (tokens, heads, size) at places (rows, length) -> (rows, heads, length, size)

    index_select, whose gradient is an index_add: that of x[places] is many times slower.
    """
    return x.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)
