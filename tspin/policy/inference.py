"""A policy to sample and to score from, in less memory: the same numbers, but not to be trained."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def narrow(model: PreTrainedModel, autocast: torch.dtype | None) -> bool:
    """Holds what autocast would cast in its dtype, in place. -> whether anything was wider

    Linear layers alone, whose product is of the same bits then: autocast casts their weights before
    every product. Embeddings, norms and a head that is an embedding too stay as they are, and
    adapters, whose base is held narrow anyway.
    """
    model.zero_grad()  # the gradient of training's last step
    if autocast is None or model.dtype == autocast:
        return False
    wider = [weight for weight in linear_weights(model) if weight.dtype != autocast]
    if not wider:
        return False
    for parameter in wider:
        parameter.data = parameter.data.to(autocast)
    gc.collect()  # what training left
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def linear_weights(model: nn.Module) -> list[nn.Parameter]:
    """What linear layers alone hold: all of it is cast by autocast, before every product.

    A head that is an embedding too is none of them.
    """
    elsewhere = {
        id(parameter)
        for module in model.modules()
        if type(module) is not nn.Linear
        for parameter in module.parameters(recurse=False)
    }
    return [
        parameter
        for module in model.modules()
        if type(module) is nn.Linear
        for parameter in module.parameters(recurse=False)
        if id(parameter) not in elsewhere
    ]
