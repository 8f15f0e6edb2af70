"""What bitsandbytes keeps in 8 or 4 bits: a frozen base (model.quantize).

Nothing that is not asked for needs it. On the CPU it is refused: what bitsandbytes packs for it
outside of training mode lets no gradient through.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

from tspin.config.run import ComputeConfig, ModelConfig, Quantize
from tspin.policy.adapters import INSTALL

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


def check(model: ModelConfig, compute: ComputeConfig) -> None:
    """ValueError where model.quantize asks for what is not here."""
    if model.quantize is None:
        return
    if compute.device == "cpu" or not torch.cuda.is_available():
        raise ValueError(
            f"model.quantize={model.quantize} needs a CUDA device, and this run is on the CPU: "
            "bitsandbytes forms no gradient through weights packed for it; leave it out"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"model.quantize={model.quantize} needs bitsandbytes, which is not installed: {INSTALL}"
        )


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
