"""Where the time of a training step goes, operation by operation, beside what products take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.common import now

PRODUCTS = (
    *("aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise"),
    *("aten::bmm", "aten::baddbmm", "aten::baddbmm_"),
)
ATTENTION = "scaled_dot_product"
MOVED = (
    *("aten::copy_", "aten::cat", "aten::index_select", "aten::index_add_", "aten::clone"),
    *("aten::gather", "aten::scatter_add_", "aten::fill_", "aten::zero_", "aten::embedding"),
    "aten::embedding_dense_backward",
)
# Of operations inside these, whatever they are.
WITHIN = {"Optimizer.step": "the optimiser", "_LossSum": "the head and the losses"}
HEAD = WITHIN["_LossSum"]
FLOOR = "products that no step can do without, at the rate measured here"
PARTS = (
    *("products of the layers", "products of the head", "attention"),
    *("copies, casts, zeros", "norms, activations, rotary embeddings and the rest"),
    *(HEAD, WITHIN["Optimizer.step"], "outside of operations"),
)


def of(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of each of PARTS in one call of `work`, which the profiler slows down a little."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        before = now()
        work()
        whole = now().since(before).wall
    found = dict.fromkeys(PARTS, 0.0)
    for event in profiled.events():
        found[part(event)] += event.self_cpu_time_total / 1e6
    found[PARTS[-1]] += max(0.0, whole - sum(found.values()))
    return found


def part(event: Any) -> str:
    """The part of an operation, as the profiler has it: its name, and those it was called by."""
    products, head, attention, moved, rest, *_ = PARTS
    within = next((WITHIN[name] for name in WITHIN if _is_within(event, name)), None)
    if event.name in PRODUCTS:
        return head if within == HEAD else products
    if within is not None:
        return within
    if ATTENTION in event.name:
        return attention
    return moved if event.name in MOVED else rest


def _is_within(event: Any, name: str) -> bool:
    while event is not None:
        if event.name.startswith(name):
            return True
        event = event.cpu_parent
    return False
