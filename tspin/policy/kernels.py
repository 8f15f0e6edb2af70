"""compute.compile and compute.kernels: other code for a model's layers, the same numbers up to
rounding.

Neither touches attention, which is tspin.logprobs' own, nor the head and the losses.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import unwrap
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tspin.config.run import ComputeConfig
from tspin.tools.log import once, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIGER = "liger_kernel"
# Never its cross-entropy, fused or not: log-probs are tspin.logprobs' own.
LIGER_OPTIONS = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}
# Families (model_type) whose functions in Liger are of these three kernels and no others.
LIGER_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
ROPE = "apply_rotary_pos_emb"  # by this name a module of transformers calls it

_ropes: dict[str, Callable[..., Any]] = {}  # module of transformers -> its own function


def check(compute: ComputeConfig) -> None:
    """ValueError where compute.kernels asks for what is not here, before anything is loaded."""
    if compute.kernels != "liger":
        return
    if compute.device == "cpu" or not torch.cuda.is_available():
        raise ValueError(
            "compute.kernels=liger needs a CUDA device, and this run is on the CPU; use "
            "compute.kernels=torch"
        )
    if importlib.util.find_spec(LIGER) is None:
        raise ValueError(
            "compute.kernels=liger needs liger-kernel, which is not installed: "
            "pip install -e '.[liger]', or use compute.kernels=torch"
        )


def check_family(model_type: str, compute: ComputeConfig) -> None:
    """ValueError where Liger has no kernels for models of this type, as config.json calls it."""
    if compute.kernels == "liger" and model_type not in LIGER_FAMILIES:
        raise ValueError(
            f"compute.kernels=liger does not know models of the type {model_type}, but "
            f"{', '.join(LIGER_FAMILIES)}; use compute.kernels=torch"
        )


def use_liger(model: PreTrainedModel) -> None:
    """Liger's RMSNorm, rotary embedding and SwiGLU in this model.

    Liger changes transformers' module too, for all models that are made later. That is undone but
    for the rotary embedding, which the module looks up at every call; `use_torch` undoes it.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    name = type(model).__module__
    module = sys.modules[name]
    own = dict(vars(module))
    _ropes.setdefault(name, own[ROPE])
    MODEL_TYPE_TO_APPLY_LIGER_FN[model.config.model_type](model=model, **LIGER_OPTIONS)
    for key, value in own.items():
        if key != ROPE:
            setattr(module, key, value)


def use_torch(model: PreTrainedModel) -> None:
    """transformers' own functions in the family of this model, whatever ran in this process."""
    name = type(model).__module__
    if name in _ropes:
        setattr(sys.modules[name], ROPE, _ropes.pop(name))


@dataclass
class Compiled:
    """Decoder layers that are compiled, each by itself; eager ones again from a failure on.

    failure  what the compiler said, in one line; None: nothing yet
    """

    failure: str | None = None

    @property
    def facts(self) -> list[str]:
        """For the record of a run."""
        off = "" if self.failure is None else f" off: {self.failure}"
        return [f"torch.compile{off}"]

    def call(
        self, eager: Callable[..., Any], compiled: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """A layer's forward pass. With a cache of keys, as in sampling, it is the eager one: the
        cache knows the layers by number, and each would be compiled anew.
        """
        if self.failure is not None or kwargs.get("past_key_values") is not None:
            return eager(*args, **kwargs)
        from torch._dynamo.exc import TorchDynamoException  # not at the top: it takes a second

        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as error:
            self.failure = one_line(error)
            once(f"compute.compile=true: layers are not compiled from here on: {self.failure}")
            return eager(*args, **kwargs)


def compile_layers(
    model: PreTrainedModel, compiled: Compiled | None = None, *, backend: str = "inductor"
) -> Compiled:
    """Compiles what a decoder layer computes, in place; weights and their names stay.

    Lengths are symbols, so that streams of any length run in the same code. Checkpointing stays
    outside: each layer is recomputed by the same compiled code.

    compiled  gets what becomes of them; None: a new one
    backend   what torch.compile makes code of a graph with, by its names
    Raises ValueError for an architecture that does not say what its layers are.
    """
    compiled, layers = compiled or Compiled(), layers_of(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} does not say what its layers are, which compute.compile=true "
            "compiles; use compute.compile=false"
        )
    for layer in layers:
        eager = unwrap(type(layer).forward).__get__(layer)
        call = partial(compiled.call, eager, torch.compile(eager, dynamic=True, backend=backend))
        layer.forward = call if _checkpoints_outside(layer) else partial(_checkpointed, layer, call)
    return compiled


def layers_of(model: PreTrainedModel) -> list[Any]:
    kinds = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]


def _checkpoints_outside(layer: nn.Module) -> bool:
    """Whether it is around `forward`, as it is until late in transformers 5; then it is in it."""
    return type(layer).__call__ is not nn.Module.__call__ or not hasattr(
        layer, "gradient_checkpointing"
    )


def _checkpointed(layer: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(partial(call, **kwargs), *args)
    return call(*args, **kwargs)
