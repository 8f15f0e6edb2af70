"""Log-probabilities fused with the last projection: logits exist for a few triplets at a time.

The positions that predict response tokens are projected in chunks cut between triplets. With the
objective at hand (`loss_sum`) a chunk's loss and its gradient are formed while its logits are
there: three matrix products, as in the plain path. `token_logps`, for scores, has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tspin.data.triplets import Triplet
from tspin.logprobs.packing import Stream
from tspin.objectives import Logps, Role

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = {"cpu": 2**23, "cuda": 2**27}  # logits at a time; at least those of one triplet
WORDS = 2**12  # of the vocabulary at a time where a Product copies what lies transposed
WIDE_DEVICES = ("cuda",)
LossFunction = Callable[[Sequence[Triplet], Logps], Tensor]
"""Triplets and their log-probs, each (batch,) -> losses (batch,), differentiable in the log-probs.
May be called with a micro-batch in parts: a triplet's loss must not depend on another's."""
Product = Callable[[Tensor, Tensor], Tensor]
"""(m, k), (n, k) -> their product a b^T (m, n)"""


@dataclass(frozen=True)
class Head:
    """The last projection: logits = cap * tanh(scale * (hidden W^T + b) / cap)."""

    layer: nn.Linear  # read anew each time: sharded weights are others than it began with
    scale: float
    softcap: float | None
    dtype: torch.dtype  # of the products
    product: Product | None = None  # None: torch's own

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """hidden (tokens, size), weight (vocab, size) in `dtype` -> (tokens, vocab), float32 up"""
        hidden, wide = hidden.to(self.dtype), torch.promote_types(self.dtype, torch.float32)
        if wide_products(hidden.device, self.dtype):
            logits = torch.mm(hidden, weight.T, out_dtype=wide)
        else:
            logits = self.times(hidden, weight)
        if self.bias is not None:
            logits += self.bias.to(self.dtype)
        if self.scale != 1:
            logits *= self.scale
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits.to(wide)

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """(m, k), (n, k) -> (m, n), in their dtype"""
        return a @ b.T if self.product is None else self.product(a, b)


@cache
def wide_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of `dtype` there can be had in the float32 in which they are summed.

    In bfloat16 a logit of 20 is off by up to 0.06. torch.mm has out_dtype from 2.8 on, for CUDA.
    """
    if device.type not in WIDE_DEVICES or dtype not in (torch.bfloat16, torch.float16):
        return False
    one = torch.ones(8, 8, dtype=dtype, device=device)
    try:
        torch.mm(one, one, out_dtype=torch.float32)
    except (TypeError, RuntimeError):  # NotImplementedError is one of the latter
        return False
    return True


def head(model: PreTrainedModel, dtype: torch.dtype | None, product: Product | None = None) -> Head:
    """The model's head; `dtype` of its products, None for that of its weights.

    Raises ValueError for one that is more than a linear map, scale and soft-cap.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear:
        raise ValueError(f"its head is a {type(layer).__name__}")
    config = model.config.get_text_config().to_dict()
    scale = float(config.get("logit_scale") or 1.0) / float(config.get("logits_scaling") or 1.0)
    cap = config.get("final_logit_softcapping")
    return Head(layer, scale, cap, dtype or layer.weight.dtype, product)


@torch.no_grad()
def token_logps(
    hidden: Tensor, head: Head, stream: Stream, roles: Sequence[Role]
) -> tuple[Logps, Tensor]:
    """log pi of each response, in nats, by role, each (triplets,) in float32 at least; and of each
    of their tokens (num_targets,).

    hidden  (num_targets, size) the states that predict the stream's targets
    """
    chunks = _Work(head, stream, len(roles)).chunks(hidden, gradient=False)
    # map lets go of a chunk's logits before the next ones are made.
    logps, tokens = zip(*map(attrgetter("logps", "token_logps"), chunks), strict=True)
    return by_role(torch.cat(logps), roles), torch.cat(tokens)


def loss_sum(
    hidden: Tensor,
    head: Head,
    stream: Stream,
    triplets: Sequence[Triplet],
    roles: Sequence[Role],
    loss_function: LossFunction,
) -> Tensor:
    """The sum of the triplets' losses, whose gradient is formed on the way. -> ()"""

    def losses(chunk: slice, logps: Tensor) -> Tensor:
        return loss_function(triplets[chunk], by_role(logps, roles))

    work = _Work(head, stream, len(roles))
    return _LossSum.apply(hidden, head.weight, head.bias, work, losses)


def by_role(logps: Tensor, roles: Sequence[Role]) -> Logps:
    """logps (triplets, roles)"""
    return Logps().with_values(dict(zip(roles, logps.unbind(1), strict=True)))


class _Work:
    """One micro-batch's targets, and the chunks they are cut into."""

    def __init__(self, head: Head, stream: Stream, roles: int) -> None:
        self.head, self.targets, lengths = head, stream.targets, stream.lengths
        self.lengths = (
            torch.tensor(lengths).to(self.targets.device, non_blocking=True).view(-1, roles)
        )
        self._sizes = [sum(lengths[i : i + roles]) for i in range(0, len(lengths), roles)]

    def chunks(self, hidden: Tensor, *, gradient: bool) -> Iterator[_Chunk]:
        weight = self.head.weight.detach().to(self.head.dtype)
        limit = CHUNK[self.targets.device.type] // weight.shape[0]
        first = start = end = 0
        for i, size in enumerate(self._sizes):
            if i > first and end + size - start > limit:
                yield _Chunk(self, hidden, weight, slice(first, i), slice(start, end), gradient)
                first, start = i, end
            end += size
        yield _Chunk(self, hidden, weight, slice(first, None), slice(start, end), gradient)


class _Chunk:
    """Logits of a few triplets: log pi now, its gradient once the factors are known.

    logps (triplets, roles), token_logps (tokens,). The logits are overwritten in place, by
    exp(logits - max) and then by the gradient: at these sizes another tensor costs more than the
    arithmetic.
    """

    def __init__(
        self,
        work: _Work,
        hidden: Tensor,
        weight: Tensor,
        triplets: slice,
        tokens: slice,
        gradient: bool,
    ) -> None:
        self.head, self.weight, self.triplets, self.tokens = work.head, weight, triplets, tokens
        self.hidden = hidden[tokens].to(weight.dtype)
        self.targets, self.lengths = work.targets[tokens, None], work.lengths[triplets]
        logits = self.head.logits(self.hidden, weight)
        # d (cap tanh(u / cap)) / du = 1 - tanh(u / cap)^2
        cap = self.head.softcap
        self.slope = 1 - (logits / cap) ** 2 if gradient and cap is not None else None
        chosen = logits.gather(1, self.targets)[:, 0]
        highest = logits.amax(1, keepdim=True)
        self.exps = logits.sub_(highest).exp_()
        self.sums = self.exps.sum(1)
        self.token_logps = chosen - highest[:, 0] - self.sums.log()
        lengths = self.lengths.flatten()
        # unsafe: without a look at the lengths, for which a GPU would have to be waited for.
        summed = torch.segment_reduce(
            self.token_logps, "sum", lengths=lengths, initial=0, unsafe=True
        )
        self.logps = summed.view(self.lengths.shape)

    def backward(self, factors: Tensor, into: _Gradients) -> None:
        """Adds the gradient of sum(factors * logps); factors (triplets, roles).

        d log pi(token) / d logits = onehot(token) - softmax
        """
        each = factors.flatten().repeat_interleave(
            self.lengths.flatten(), output_size=len(self.hidden)
        )
        logits = self.exps.mul_((-each / self.sums)[:, None])
        logits.scatter_add_(1, self.targets, each[:, None])
        if self.slope is not None:
            logits *= self.slope
        if self.head.scale != 1:
            logits *= self.head.scale
        logits = logits.to(self.weight.dtype)
        if into.hidden is not None:
            into.hidden[self.tokens] = self.head.times(logits, self.weight.T)
        if into.weight is not None:
            if self.head.product is not None:
                parts = zip(into.weight.split(WORDS), logits.split(WORDS, dim=1), strict=True)
                for gradient, of_words in parts:
                    gradient += self.head.times(of_words.T, self.hidden.T)
            elif into.weight.dtype == logits.dtype:
                into.weight.addmm_(logits.T, self.hidden)
            else:
                into.weight += self.head.times(logits.T, self.hidden.T)
        if into.bias is not None:
            into.bias += logits.sum(0)


class _Gradients:
    """Gradients by hidden states, weight and bias, filled chunk by chunk; None: not needed."""

    def __init__(self, hidden: Tensor, head: Head, needed: Sequence[bool]) -> None:
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        # Many chunks are added up; autograd rounds their sum to the dtype of the weight.
        wide = torch.promote_types(head.weight.dtype, torch.float32)
        self.weight = torch.zeros_like(head.weight, dtype=wide) if needed[1] else None
        self.bias = torch.zeros_like(head.bias) if head.bias is not None and needed[2] else None

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.hidden, self.weight, self.bias))


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        work: _Work,
        losses: Callable[[slice, Tensor], Tensor],
    ) -> Tensor:
        into = _Gradients(hidden, work.head, ctx.needs_input_grad)
        values = []
        for chunk in work.chunks(hidden, gradient=True):
            with torch.enable_grad():
                logps = chunk.logps.requires_grad_()
                value = losses(chunk.triplets, logps).sum()
            (factors,) = torch.autograd.grad(value, logps)
            chunk.backward(factors, into)
            values.append(value.detach())
            del chunk  # its logits, before the next ones are made
        ctx.into = into
        return torch.stack(values).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Any, ...]:
        into = ctx.into
        ctx.into = None  # so that autograd may keep these tensors instead of copies
        return *(None if x is None else x.mul_(factor) for x in into), None, None
