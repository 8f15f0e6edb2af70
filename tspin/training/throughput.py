"""How fast a training step was, and beside what the machine could do. Training reads none of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from tspin.data.triplets import Triplet, num_padding, num_tokens, num_useful
from tspin.objectives import Role
from tspin.policy.policy import Policy
from tspin.policy.rates import matmul_rate
from tspin.training.cut import Cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Speed:
    """The speed of one training's steps, on `num_devices` that take part in each.

    peak  operations a second that were seen to be possible: of matrix products, or of a step that
          beat them (they were measured while others had the machine); no step is above it
    """

    def __init__(self, policy: Policy, roles: Sequence[Role], *, num_devices: int = 1) -> None:
        self.roles = roles
        self.padded = policy.packed is None
        self.peak = num_devices * matmul_rate(policy.device, policy.products)
        self._work = _work(policy.model)

    def of_step(self, batch: Sequence[Triplet], cut: Cut, seconds: float) -> dict[str, float]:
        """What metrics.jsonl says of a step, by the names of docs/runs.md."""
        padding, tokens = 0, num_tokens(batch, self.roles)
        if self.padded:
            micro_batches = cut.micro_batches(batch, self.roles)
            padding = sum(num_padding(triplets, self.roles) for triplets in micro_batches)
        metrics = {
            "tokens_per_second": tokens / seconds,
            "useful_tokens_per_second": num_useful(batch, self.roles) / seconds,
            "padding_share": padding / (padding + tokens),
            "seconds": seconds,
        }
        if self._work is not None:
            rate = self._work.flops(batch, self.roles) / seconds
            self.peak = max(self.peak, rate)
            metrics["flop_utilisation"] = rate / self.peak
        return metrics


@dataclass(frozen=True)
class _Work:
    """The arithmetic that a step cannot do without, by the shape of its model.

    A weight that is trained takes 6 operations, 2 in the forward pass and 4 in the backward pass;
    one that is not takes 2 and 2.

    layers   operations a token of the layers' matrices; of a mixture of experts, of what is not
             the experts'
    head     operations a token of the last projection
    queries  numbers in the queries of a token, all layers together
    """

    layers: int
    head: int
    queries: int

    def flops(self, triplets: Sequence[Triplet], roles: Sequence[Role]) -> float:
        """The layers for each useful token, the head for each response token, and 12 for each
        number of a query and key that it sees; nothing computed twice.
        """
        responses = sum(len(t.responses[role]) for t in triplets for role in roles)
        pairs = sum(_pairs(t, roles) for t in triplets)
        products = self.layers * num_useful(triplets, roles) + self.head * responses
        return products + 12 * self.queries * pairs


def _work(model: PreTrainedModel) -> _Work | None:
    """None for an architecture without a head, or without attention as this counts it."""
    shape, head = model.config.get_text_config(), model.get_output_embeddings()
    heads = getattr(shape, "num_attention_heads", None)
    if head is None or not isinstance(heads, int):
        return None
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    left_out = {*looked_up, id(head.weight)}
    layers = [p for p in model.parameters() if p.ndim == 2 and id(p) not in left_out]
    size = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    queries = shape.num_hidden_layers * heads * size
    return _Work(sum(map(_operations, layers)), _operations(head.weight), queries)


def _operations(weight: nn.Parameter) -> int:
    """That it takes a token; the numbers of a 4-bit weight are packed by two."""
    packed = getattr(weight, "quant_state", None)
    numbers = weight.numel() if packed is None else math.prod(packed.shape)
    return numbers * (6 if weight.requires_grad else 4)


def _pairs(triplet: Triplet, roles: Sequence[Role]) -> float:
    """Queries and the keys they see, of a prompt and of each response behind it."""
    prompt = len(triplet.prompt_ids)
    responses = [len(triplet.responses[role]) for role in roles]
    return prompt * prompt / 2 + sum(prompt * n + n * n / 2 for n in responses)
