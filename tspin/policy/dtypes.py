"""In which dtype, and where, a policy computes on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tspin.config.run import ComputeConfig, ModelConfig, Precision, arithmetic_dtype

LARGE = 50_000_000  # parameters from which products are most of a step on a CPU
BFLOAT16 = ("avx512_bf16", "amx_bf16")  # of torch.cpu.get_capabilities


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


def cpu_multiplies_bfloat16() -> bool | None:
    """Whether this CPU has products of its own for it; False where it has to do without AVX-512
    even. None: torch before 2.13 does not say, and what others do is not known."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
    if any(capabilities.get(name) for name in BFLOAT16):
        return True
    without = capabilities.get("avx2") and not capabilities.get("avx512_f")
    return False if without else None


def faster(how: MixedPrecision, parameters: int) -> str | None:
    """The dtype to set where a CPU would train a large model faster in the other one."""
    if how.device.type != "cpu" or parameters < LARGE:
        return None
    native = cpu_multiplies_bfloat16()
    if how.products == torch.float32 and native:
        return (
            "compute.dtype=bfloat16 would train faster, SmolLM2 1.6 times: this CPU has products "
            "of its own for it (weights and optimiser stay float32)"
        )
    if how.products == torch.bfloat16 and native is False:
        return (
            "compute.dtype=float32 would train faster, SmolLM2 ten times: this CPU has no products "
            "of its own for bfloat16"
        )
    return None


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
