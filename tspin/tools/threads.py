"""The number of threads that torch computes with, which is the process's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within, torch has so many; behind, as many as before: whatever comes next has its own."""
    import torch  # who plans runs imports the other tools without it

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
