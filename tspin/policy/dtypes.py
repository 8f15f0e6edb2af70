"""In which dtype, and where, a policy computes on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tspin.config.run import ComputeConfig, ModelConfig, Precision, arithmetic_dtype


@dataclass(frozen=True)
class MixedPrecision:
    """Where to compute, the dtype of the weights that are trained, and that of the products."""

    device: torch.device
    weights: torch.dtype
    products: torch.dtype

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.products == self.weights else self.products


def resolve(compute: ComputeConfig, precision: Precision) -> MixedPrecision:
    """What compute.device, compute.dtype and optim.precision come to on this machine.

    Raises ValueError for a device that is not there.
    """
    name = compute.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"compute.device={name}, but torch finds no CUDA device; use cpu or auto")
    dtype = arithmetic_dtype(compute, precision)
    if dtype == "auto":
        dtype = "bfloat16" if name.startswith("cuda") else "float32"
    products = getattr(torch, dtype)
    weights = torch.float32 if dtype == "bfloat16" else products
    return MixedPrecision(
        torch.device(name), products if precision == "bf16_stochastic" else weights, products
    )


def facts(compute: ComputeConfig, precision: Precision, model: ModelConfig) -> dict[str, Any]:
    """What computes there, for the record of a run. compute.attention=auto may yet be plain."""
    how = resolve(compute, precision)
    base = {} if model.lora is None else {"base": model.quantize or _name(how.products)}
    return {
        "device": how.device.type,
        "weights": _name(how.weights),
        **base,
        "dtype": _name(how.products),
        "attention": compute.attention,
    }


def sampling_key(compute: ComputeConfig, precision: Precision, model: ModelConfig) -> list[str]:
    """What of the arithmetic decides samples, as part of their key.

    The adapters of model.lora do not: at first they add nothing.
    """
    how = resolve(compute, precision)
    held = how.weights if model.lora is None else how.products
    key = [how.device.type, str(how.autocast or arithmetic_dtype(compute, precision))]
    # Said only where it is not float32: keys of folders that are there stay what they are.
    key += ["bfloat16 weights"] if held == torch.bfloat16 else []
    key += [compute.kernels] if compute.kernels != "torch" else []
    return [*key, model.quantize] if model.quantize else key


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
