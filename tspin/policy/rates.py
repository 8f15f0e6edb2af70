"""How fast this machine multiplies matrices, measured; and in which dtype it would train faster."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from tspin.policy import products
from tspin.policy.dtypes import MixedPrecision

# Of the matrices that are multiplied to measure the machine: one that fits its caches, a large one.
SIZES = {"cpu": (256, 1024), "cuda": (4096, 8192)}
REPEATS = 3  # of which the best counts: others may be disturbed
# Seconds of a product, at the best rate of smaller ones, that is not tried: a CPU that knows no
# bfloat16 takes over a second for each large one, and is no faster at it.
LONG = 0.1
LARGE = 50_000_000  # parameters from which products are most of a step on a CPU
OTHER = {torch.float32: torch.bfloat16, torch.bfloat16: torch.float32}
WORTH = 1.25  # how many times as fast the other dtype has to be; a step is more than its products


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest matrix product there: of SIZES, by one thread and by all,
    on a CPU by torch's library and by oneDNN.

    Measured once a process (tenths of a second), so after the number of threads is set.
    """
    threads = {1, torch.get_num_threads()} if device.type == "cpu" else {torch.get_num_threads()}
    best = 0.0
    for size in SIZES[device.type]:
        if 2 * size**3 <= LONG * best or not best:
            best = max(best, *(_rate(size, n, device, dtype) for n in threads))
    return best


def _rate(size: int, num_threads: int, device: torch.device, dtype: torch.dtype) -> float:
    from torch.utils.benchmark import Timer  # it imports compilers' tools: a third of a second

    generator = torch.Generator(device).manual_seed(0)  # nobody else's random numbers are used up
    a = torch.randn(size, size, generator=generator, dtype=torch.float32, device=device).to(dtype)
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [torch.mm]
    if device.type == "cpu" and products.is_here():
        ways.append(products.times_transposed)
    timers = [
        Timer("way(a, a)", globals={"a": a, "way": way}, num_threads=num_threads) for way in ways
    ]
    return 2 * size**3 / min(timer.timeit(1).mean for timer in timers for _ in range(REPEATS))


def faster(how: MixedPrecision, parameters: int) -> str | None:
    """The dtype to set where a CPU would train a large model faster in the other one.

    Measured, for instructions say little: of two CPUs with AVX512_BF16 one trained SmolLM2 in
    bfloat16 in 0.6 of the time of float32, the other in 1.7 of it.
    """
    other = OTHER.get(how.products)
    if how.device.type != "cpu" or parameters < LARGE or other is None:
        return None
    times = matmul_rate(how.device, other) / matmul_rate(how.device, how.products)
    if times < WORTH:
        return None
    kept = " (weights and optimiser stay float32)" if other == torch.bfloat16 else ""
    name = str(other).removeprefix("torch.")
    return (
        f"compute.dtype={name} would train faster: this CPU multiplies it {times:.1f} times as fast"
        f"{kept}"
    )
