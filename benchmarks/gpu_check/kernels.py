"""Kernels alone, against plain float32 arithmetic on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from benchmarks.gpu_check.models import triplets
from benchmarks.gpu_check.results import Outcome, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.logprobs import attention
from tspin.logprobs.packing import Layout, Row, Stream, pack
from tspin.objectives import ROLES
from tspin.sampling.native import pick
from tspin.training.stochastic_rounding import NOISE, stochastic_round

# Relative to the norm: a number of bfloat16 is off by up to 0.4%, and weights of attention are
# rounded to it before they are multiplied.
FORWARD, BACKWARD = 0.01, 0.02
SIGMAS = 5.0  # of a mean of random numbers
DRAWS = 200_000


def kernels(setting: Setting) -> Iterator[Outcome]:
    for layout in get_args(Layout):
        for window in (None, setting.sized(64, 5), 4096):
            yield _attention(setting, layout, window)
    yield _rounding(setting)
    yield _drawing(setting)


def _attention(setting: Setting, layout: Layout, window: int | None) -> Outcome:
    """Packed attention in bfloat16 over rows of unequal lengths, four heads to each of the keys."""
    device, shape = torch.device(setting.device), setting.mistral(1)
    batch = triplets(shape, 5, setting.lengths(), spread=0.9)
    stream = pack(batch, ROLES, layout, device=device)
    inputs = _inputs(stream, (shape.heads, shape.kv_heads, shape.kv_heads), shape.head_dim)
    direction = torch.randn(inputs[0].shape, device=device)
    names: set[str] = set()
    plan = attention.Plan(stream, names)
    scale = shape.head_dim**-0.5

    def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        output, _ = attention.packed_attention(
            nn.Module(), q, k, v, None, scaling=scale, sliding_window=window, packed_plan=plan
        )
        return output[0]

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([_row(row, q, k, v, scale, window) for row in stream.rows])

    wide = [x.float() for x in inputs]
    ours = _with_gradients(packed, inputs, direction)
    theirs = _with_gradients(plain, wide, direction)
    errors = [_error(a, b) for a, b in zip(ours, theirs, strict=True)]
    figures = dict(zip(("output", "dq", "dk", "dv"), errors, strict=True))
    kernel = ", ".join(sorted(names))
    lengths = [row.length for row in stream.rows]
    return verdict(
        f"attention, {layout}, window {window}",
        errors[0] < FORWARD and max(errors[1:]) < BACKWARD,
        {"kernel": kernel, "rows": f"{min(lengths)} to {max(lengths)} tokens", **figures},
        rule=f"relative errors are to be below {FORWARD} (output) and {BACKWARD} (gradients)",
    )


def _inputs(stream: Stream, heads: Sequence[int], size: int) -> list[Tensor]:
    """Queries, keys and values of the stream, each (tokens, heads, size) in bfloat16."""
    tokens, device = stream.input_ids.numel(), stream.input_ids.device
    generator = torch.Generator(device).manual_seed(0)

    def normal(number: int) -> Tensor:
        x = torch.randn(tokens, number, size, generator=generator, device=device)
        return x.to(torch.bfloat16)

    return [normal(number) for number in heads]


def _row(row: Row, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """softmax(q k^T scale) v of one row of a stream, (length, heads, size)."""
    own = torch.arange(row.start, row.start + row.length, device=q.device)
    prefix = torch.arange(row.prefix_start, row.prefix_start + row.prefix, device=q.device)
    keys = torch.cat([prefix, own])
    times = q.shape[1] // k.shape[1]
    key, value = (x[keys].repeat_interleave(times, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q[own], key) * scale
    place = torch.arange(row.length, device=q.device)[:, None] + row.prefix
    seen = torch.arange(len(keys), device=q.device)[None]
    visible = seen <= place
    if window is not None:
        visible &= seen > place - window
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def _with_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], direction: Tensor
) -> list[Tensor]:
    """The output, and the gradients of its product with `direction` by the inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = function(*leaves)
    gradients = torch.autograd.grad((output.float() * direction).sum(), leaves)
    return [output.detach(), *gradients]


def _error(value: Tensor, exact: Tensor) -> float:
    return float((value.float() - exact).norm() / exact.norm())


def _rounding(setting: Setting) -> Outcome:
    """A third of the way between two neighbours in bfloat16: a third is rounded up."""
    device = torch.device(setting.device)
    low, high, share = 1.0, 1.0 + 2.0**-7, 1 / 3
    x = torch.full((DRAWS,), low + share * (high - low), device=device)
    generator = torch.Generator(device).manual_seed(0)
    noise = torch.randint(NOISE, x.shape, generator=generator, dtype=torch.int32, device=device)
    rounded = stochastic_round(x, noise).float()
    up = float((rounded == high).double().mean())
    apart = abs(up - share) / (share * (1 - share) / DRAWS) ** 0.5
    inside = bool(((rounded == low) | (rounded == high)).all())
    return verdict(
        "stochastic rounding",
        inside and apart < SIGMAS,
        {"rounded up": up, "expected": share, "sigmas": apart},
        rule=f"the share is to be within {SIGMAS:g} standard deviations",
    )


def _drawing(setting: Setting) -> Outcome:
    """Tokens drawn on the device, counted against the softmax of the same logits in float64."""
    device = torch.device(setting.device)
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    numbers = torch.rand(DRAWS, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    rows = logits.to(device).expand(DRAWS, -1)
    counts = pick(rows, numbers.to(device)).bincount(minlength=len(logits)).cpu().double()
    expected = logits.double().softmax(0)
    sigma = (expected * (1 - expected) / DRAWS).sqrt()
    apart = float(((counts / DRAWS - expected) / sigma).abs().max())
    return verdict(
        "draws of tokens",
        apart < SIGMAS,
        {"draws": DRAWS, "tokens": len(logits), "sigmas": apart},
        rule=f"each frequency is to be within {SIGMAS:g} standard deviations",
    )
