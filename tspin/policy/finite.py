"""Policies that compute NaN or infinities: they end a run, and their folder is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

WAY_OUT = (
    "look at its weights and at compute.dtype; of a policy that was trained, a smaller optim.lr "
    "or the iteration before"
)


class NotFinite(ValueError):
    """A policy computes NaN or infinities; `named` says which policy."""


def check(values: Tensor, what: str) -> None:
    """NotFinite unless all values are finite. what: is computed, as a plural

    Waits for the device of the values: they should be in the host's memory already.
    """
    if not bool(values.isfinite().all()):
        worst = values[~values.isfinite()][0].item()
        raise NotFinite(f"{what} are not finite ({worst}): {WAY_OUT}")


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """NotFinite out of the block names the policy's folder."""
    try:
        yield
    except NotFinite as error:
        raise ValueError(f"{folder}: {error}") from None


@torch.no_grad()
def check_weights(model: nn.Module, folder: Path) -> None:
    """ValueError for weights with NaN or infinities in them. One pass, and no copy."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel():
            ends = torch.stack(weight.aminmax())  # NaN goes through
            if not bool(ends.isfinite().all()):
                raise ValueError(
                    f"{folder}: its weights {name} hold NaN or infinities; a policy of them "
                    "gives no probabilities"
                )
