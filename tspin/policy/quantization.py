"""What bitsandbytes keeps in 8 or 4 bits: a frozen base (model.quantize), the optimiser's state.

Nothing that is not asked for needs it. The optimisers work on the CPU too; a quantised base does
not: what bitsandbytes packs for the CPU outside of training mode lets no gradient through.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tspin.config.run import ModelConfig, OptimConfig, Quantize

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

INSTALL = "pip install -e '.[lora]'"
_WRAPPED = "__bnb_optimizer_quant_state__"  # where bitsandbytes' state_dict hides tensors from FSDP
_MAPS = ("qmap1", "qmap2")  # the 256 values of a code: constants


def check(model: ModelConfig, optim: OptimConfig, *, cuda: bool) -> None:
    """ValueError where model.quantize or optim.state cannot be had. cuda: a device computes"""
    if model.quantize is not None:
        if not cuda:
            raise ValueError(
                f"model.quantize={model.quantize} needs a CUDA device, and this run is on the CPU: "
                "bitsandbytes forms no gradient through weights packed for it; leave it out"
            )
        _need(f"model.quantize={model.quantize}")
    if optim.state == "8bit":
        _need("optim.state=8bit")


def _need(what: str) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"{what} needs bitsandbytes, which is not installed: {INSTALL}")


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


def optimizer(
    parameters: Sequence[torch.nn.Parameter], optim: OptimConfig
) -> torch.optim.Optimizer:
    """The optimiser of `optim` with its state in 8 bits, in blocks of 256 with a scale each.

    Weights stay what they are. Matrices of fewer than 4096 numbers keep float32 state.
    """
    _need(f"optim.state={optim.state}")
    if any(parameter.dtype == torch.float64 for parameter in parameters):
        raise ValueError(f"optim.state={optim.state} is not there for float64; use float32")
    import bitsandbytes

    common: dict[str, Any] = {"lr": 0.0, "eps": optim.eps, "weight_decay": optim.weight_decay}
    if optim.name == "rmsprop":
        return _plain(bitsandbytes.optim.RMSprop8bit)(
            parameters, alpha=optim.rms_alpha, momentum=0.0, **common
        )
    return _plain(bitsandbytes.optim.AdamW8bit)(parameters, betas=optim.betas, **common)


def _plain(kind: Any) -> Callable[..., torch.optim.Optimizer]:
    """The same optimiser, whose state_dict holds tensors and nothing else, as torch's own do."""

    class Plain(kind):
        def state_dict(self) -> dict[str, Any]:
            whole = super().state_dict()
            for number, state in whole["state"].items():
                flat = {k: v for k, v in state.items() if k != _WRAPPED} | state.get(_WRAPPED, {})
                # The codes are shared by all weights, and are made again.
                whole["state"][number] = {
                    k: torch.as_tensor(v) for k, v in flat.items() if k not in _MAPS
                }
            return whole

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            for state in self.state.values():
                state["step"] = int(state["step"])
                for number, code in (("1", "dynamic"), ("2", "udynamic")):
                    if f"absmax{number}" in state:
                        device = state[f"absmax{number}"].device
                        state[f"qmap{number}"] = self.name2qmap[code].to(device)

    return Plain
