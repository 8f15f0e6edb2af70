"""A model's packed path: micro-batches as streams, log-probs fused with the last projection.

What it computes is what the plain path (padded.sequence_logps) computes, in another order. `packed`
checks that once for a model, on a few tokens, before anything relies on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tspin.data.triplets import Triplet, collate
from tspin.logprobs import attention, fused_head
from tspin.logprobs.fused_head import LossFunction, Product
from tspin.logprobs.packing import Layout, Stream, cheaper, pack
from tspin.logprobs.padded import sequence_logps
from tspin.objectives import Logps, Role

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Packed:
    """The packed path of one model."""

    model: PreTrainedModel
    head: fused_head.Head
    arithmetic: Callable[[], contextlib.AbstractContextManager[Any]]  # around the layers
    kernels: set[str] = field(default_factory=set)  # what has attended so far (attention.kernel)

    def cheaper(self, triplets: Sequence[Triplet], roles: Sequence[Role]) -> Layout:
        size = self.model.config.get_text_config().hidden_size
        return cheaper(triplets, roles, hidden_size=size)

    def logps(self, triplets: Sequence[Triplet], roles: Sequence[Role], layout: Layout) -> Logps:
        """log pi(z | x) by role, each (batch,), without a gradient."""
        return self.token_logps(triplets, roles, layout)[0]

    def token_logps(
        self, triplets: Sequence[Triplet], roles: Sequence[Role], layout: Layout
    ) -> tuple[Logps, Sequence[Tensor]]:
        """The same, and of the tokens of each response, by triplet, then role."""
        stream, hidden = self._hidden(triplets, roles, layout)
        logps, tokens = fused_head.token_logps(hidden, self.head, stream, roles)
        return logps, tokens.split([*stream.lengths])

    def loss_sum(
        self,
        triplets: Sequence[Triplet],
        roles: Sequence[Role],
        layout: Layout,
        loss_function: LossFunction,
    ) -> Tensor:
        """The sum of the triplets' losses, whose gradient is formed on the way. -> ()"""
        stream, hidden = self._hidden(triplets, roles, layout)
        return fused_head.loss_sum(hidden, self.head, stream, triplets, roles, loss_function)

    def _hidden(
        self, triplets: Sequence[Triplet], roles: Sequence[Role], layout: Layout
    ) -> tuple[Stream, Tensor]:
        stream = pack(triplets, roles, layout, device=self.head.weight.device)
        with self.arithmetic():
            hidden = attention.hidden_states(self.model, stream, self.kernels)
        return stream, hidden.index_select(0, stream.predictors)


def packed(
    model: PreTrainedModel,
    autocast: torch.dtype | None,
    arithmetic: Callable[[], contextlib.AbstractContextManager[Any]],
    product: Product | None = None,
) -> Packed | str:
    """The model's packed path, or in words why it has none: then the model is as it was.

    product  of the head, see fused_head.Head
    """
    before = model.config._attn_implementation
    try:
        exact = Packed(model, fused_head.head(model, None, product), contextlib.nullcontext)
    except ValueError as error:
        return str(error)
    path = Packed(model, fused_head.head(model, autocast, product), arithmetic)
    half = model.dtype in attention.HALF  # then nothing can be compared more closely
    reason = attention.install(model) or _differs(exact, tolerance=2e-2 if half else 1e-4)
    if reason is None and autocast is not None:
        reason = _differs(replace(path, kernels=set()), tolerance=2e-2)
    if reason is not None:
        model.set_attn_implementation(before)
        return reason
    return path


@torch.no_grad()
def _differs(path: Packed, *, tolerance: float) -> str | None:
    """Why it cannot stand in for the plain path: both on two triplets of a few tokens."""
    vocab, device = path.head.weight.shape[0], path.head.weight.device
    ids = [int(i) % vocab for i in torch.arange(3, 40) * 7]
    roles: tuple[Role, ...] = ("annotated", "synthetic")
    triplets = [
        Triplet("a", "", 0, ids[:5], {"annotated": ids[5:9], "synthetic": ids[9:11]}),
        Triplet("b", "", 0, ids[11:14], {"annotated": ids[14:15], "synthetic": ids[15:22]}),
    ]
    batch = collate(triplets, roles, pad_id=0).to(device)
    try:
        with path.arithmetic():
            plain = sequence_logps(
                path.model, batch.input_ids, batch.attention_mask, batch.response_mask
            )
        streams = [path.logps(triplets, roles, layout) for layout in ("shared", "separate")]
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        return f"it does not run: {error}"
    for logps in streams:
        stacked = torch.cat([logps[role] for role in roles]).to(plain.dtype)
        if not torch.allclose(stacked, plain, rtol=tolerance, atol=tolerance):
            return f"its log-probs differ from the plain path's by {(stacked - plain).abs().max()}"
    return None
