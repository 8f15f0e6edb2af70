"""What bitsandbytes keeps in 8 or 4 bits: a frozen base (model.quantize).

A base that is quantised on the disk is refused, but for bitsandbytes' own kind under model.lora.

Nothing that is not asked for needs it. On the CPU it is refused: what bitsandbytes packs for it
outside of training mode lets no gradient through.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tspin.config.run import ComputeConfig, ModelConfig, Quantize
from tspin.policy import model_files
from tspin.policy.adapters import INSTALL

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

BITSANDBYTES = "bitsandbytes"


def check(model: ModelConfig, compute: ComputeConfig) -> None:
    """ValueError where model.quantize asks for what is not here."""
    if model.quantize is not None:
        _need(f"model.quantize={model.quantize}", compute, "leave it out")


def check_base(folder: Path, model: ModelConfig, compute: ComputeConfig) -> None:
    """ValueError where the weights in `folder` are quantised and cannot be trained."""
    kind = method(model_files.config(folder))
    if kind is None:
        return
    name = f"{model.path} (quantised: {kind})"
    unquantised = "take the model that was not quantised"
    if kind != BITSANDBYTES:
        raise ValueError(f"model.path={name} holds weights that cannot be trained; {unquantised}")
    if model.lora is None:
        raise ValueError(
            f"model.path={name} holds weights that cannot be trained; {unquantised}, or train "
            "adapters beside them: lora=default"
        )
    if model.quantize is not None:
        raise ValueError(
            f"model.path={name} needs no model.quantize={model.quantize}; leave it out"
        )
    _need(f"model.path={name}", compute, unquantised)


def method(config: Mapping[str, Any]) -> str | None:
    """How the weights beside a config.json were quantised, as transformers calls it; None: not."""
    facts = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(facts, Mapping):
        return None
    packed = facts.get("load_in_4bit") or facts.get("load_in_8bit")
    return str(facts.get("quant_method") or (BITSANDBYTES if packed else "of a kind not named"))


def base_config(quantize: Quantize, products: torch.dtype) -> BitsAndBytesConfig:
    """What transformers is told: LLM.int8, or NF4 with quantised scales (the set-up of QLoRA).

    products  the dtype in which the weights are multiplied, once they are unpacked
    """
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=products,
    )


def _need(what: str, compute: ComputeConfig, way_out: str) -> None:
    """ValueError where bitsandbytes, or a device that it trains on, is not here."""
    if compute.device == "cpu" or not torch.cuda.is_available():
        raise ValueError(
            f"{what} needs a CUDA device, and this run is on the CPU: bitsandbytes forms no "
            f"gradient through weights packed for it; {way_out}"
        )
    if importlib.util.find_spec(BITSANDBYTES) is None:
        raise ValueError(f"{what} needs bitsandbytes, which is not installed: {INSTALL}")
