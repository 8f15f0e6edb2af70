"""compute.deterministic: training and scoring repeat to the last bit on CUDA too.

There gradients of gathers are added up in the order in which threads arrive, unless torch is told
otherwise. The CPU has one order either way. Sampling is left out: torch has no such form of the
cumulative sum that draws (in float64, where the order moves a draw once in 1e13).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tspin.config.run import ComputeConfig

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # read by cuBLAS as it starts
FIXED = (":4096:8", ":16:8")  # its values with which products repeat


def before_cuda(compute: ComputeConfig) -> None:
    """Sets what has to be set before CUDA starts. ValueError where it has started without."""
    if not compute.deterministic or os.environ.get(WORKSPACE) in FIXED:
        return
    if torch.cuda.is_initialized():
        raise ValueError(
            f"compute.deterministic=true needs {WORKSPACE}={FIXED[0]} before CUDA starts, which "
            "another run of this process has done: set it for the command, or run this one alone"
        )
    os.environ[WORKSPACE] = FIXED[0]


@contextmanager
def repeatable(compute: ComputeConfig) -> Iterator[None]:
    """Inside, under compute.deterministic, an operation repeats or raises RuntimeError."""
    if not compute.deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)
