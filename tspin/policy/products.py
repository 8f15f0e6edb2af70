"""compute.products: what multiplies the float32 matrices of a large model on a CPU.

torch calls MKL, which keeps to the kernels of older processors where one is not Intel's. torch has
oneDNN too, which asks the processor what it can do: on an AMD with AVX-512 its products take less
than half the time, forth and back, and are the same up to rounding. The operator is the one that
torch's own compiler calls for a linear layer (since 2.0); its arguments may lie transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tspin.config.run import ComputeConfig, Products
from tspin.policy.dtypes import MixedPrecision

# Numbers in a matrix of weights. Below, kernels for each new length cost too much: in training, and
# in sampling, where lengths are numbers of rows and come again at every token.
LEAST, LEAST_PACKED = 2**18, 2**16
OPERATORS = torch.ops.mkldnn
ROWS = 48  # for which weights are packed; other numbers of rows are multiplied as well
# Packing takes as long as twenty tokens of all rows at a time. A product with one row alone is as
# fast without it, and a second row costs it as much as the first where weights are not packed.
FEWEST_ROWS, FEWEST_TOKENS = 2, 256


def resolve(compute: ComputeConfig) -> Products:
    """What `auto` comes to on this machine, in training and scoring.

    ValueError for onednn where torch lacks it.
    """
    if compute.products == "onednn" and not is_here():
        raise ValueError("compute.products=onednn: this torch lacks it; use compute.products=auto")
    if compute.products != "auto":
        return compute.products
    return "onednn" if is_here() and is_slow_with_mkl() and not compute.compile else "torch"


def is_here() -> bool:
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(OPERATORS, it) for it in names)


@cache
def is_slow_with_mkl() -> bool:
    """Whether this processor has AVX-512 and MKL does not use it: whether it is an AMD."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    first, _, _ = text.partition("\n\n")
    return torch.backends.mkl.is_available() and "AuthenticAMD" in first and "avx512f" in first


@dataclass(frozen=True)
class Library:
    """What multiplies a policy's matrices.

    onednn  large linear layers, in training and scoring; else torch's own
    packs   their weights are packed to sample
    """

    onednn: bool = False
    packs: bool = False


def use(compute: ComputeConfig, how: MixedPrecision, model: nn.Module) -> Library:
    """What compute.products says, in the model's large linear layers: weights and modules stay what
    they are."""
    if how.device.type != "cpu":
        return Library()
    onednn = how.products == torch.float32 and resolve(compute) == "onednn"
    layers = _large(model, LEAST) if onednn else []
    for layer in layers:
        layer.forward = partial(_forward, layer)
    # On Intel's processors packing pays, too.
    return Library(onednn=bool(layers), packs=compute.products != "torch" and is_here())


def packing_pays(rows: int, tokens: int) -> bool:
    """tokens: of each row, at most"""
    return rows >= FEWEST_ROWS and rows * tokens >= FEWEST_TOKENS


@contextmanager
def packed(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """To sample: large weights also lie as oneDNN reads them, once instead of at every token.

    dtype  of the products
    """
    layers = {layer: layer.__dict__.get("forward") for layer in _large(model, LEAST_PACKED)}
    try:
        for layer in layers:
            weight = layer.weight.detach().to(dtype)
            if _fits(weight, weight, *_packable()):
                layer.forward = partial(_forward_packed, layer, dtype, _pack(weight))
        yield
    finally:
        for layer, forward in layers.items():
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward


def _large(model: nn.Module, least: int) -> list[Any]:
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear and module.weight.numel() >= least
    ]


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type) or not _fits(x, layer.weight):
        return nn.Linear.forward(layer, x)
    product = times_transposed(x.reshape(-1, x.shape[-1]), layer.weight)
    if layer.bias is not None:
        product = product + layer.bias
    return product.view(*x.shape[:-1], -1)


def _forward_packed(layer: nn.Linear, dtype: torch.dtype, weight: Tensor, x: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(dtype)
    product = _product(x.reshape(-1, x.shape[-1]).to(dtype), weight, bias)
    return product.view(*x.shape[:-1], -1)


def _packable() -> list[torch.dtype]:
    """Not bfloat16 on processors that have nothing for it: there torch multiplies it itself."""
    bfloat16 = getattr(OPERATORS, "_is_mkldnn_bf16_supported", lambda: False)()
    return [torch.float32, *([torch.bfloat16] if bfloat16 else [])]


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = OPERATORS._reorder_linear_weight(weight, ROWS)
    return packed


def times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """a b^T, differentiable, by oneDNN where both are float32 on a CPU. (m, k), (n, k) -> (m, n)"""
    if not _fits(a, b):
        return a @ b.T
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        product: Tensor = _TimesTransposed.apply(a, b)
        return product
    return _product(a, b)


def _fits(a: Tensor, b: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether they are plain tensors on the CPU, of one of these dtypes; none: of float32."""
    # Weights in shards (DTensor) and quantised ones are tensors of other kinds.
    plain = {type(a), type(b)} <= {Tensor, nn.Parameter}
    of_dtype = a.dtype == b.dtype and a.dtype in (dtypes or (torch.float32,))
    return plain and a.device.type == "cpu" and of_dtype


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = OPERATORS._linear_pointwise(a, b, bias, "none", [], "")
    return product


class _TimesTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _product(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        return (
            _product(gradient, b.T) if of_a else None,
            _product(gradient.T, a.T) if of_b else None,
        )
