"""What the micro tasks share: a hash puts every content into one split, so none share a content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

# Percent of the contents. "train" and "warm" are equally large and disjoint: a policy can be
# warm-started on pairs that self-play never sees.
SPLITS = {"pretrain": 70, "warm": 10, "train": 10, "validation": 4, "test": 6}
_BY_PERCENTILE = [split for split, percent in SPLITS.items() for _ in range(percent)]
assert len(_BY_PERCENTILE) == 100, "SPLITS must sum to 100"


def split_of(text: str) -> str:
    """The one split of a content, given as text."""
    # hash() differs between processes; a digest of the text is the same everywhere and always.
    first_bytes = hashlib.sha256(text.encode()).digest()[:8]
    return _BY_PERCENTILE[int.from_bytes(first_bytes, "big") % 100]


def check_available(task: str, split: str, n: int, num_available: Callable[[str], int]) -> None:
    """Raise ValueError for an unknown split, a negative n, or more pairs than the split holds."""
    if split not in SPLITS:
        raise ValueError(f"no {task} split {split!r}: choose one of {', '.join(SPLITS)}")
    available = num_available(split)
    if not 0 <= n <= available:
        raise ValueError(
            f"n={n} pairs of the {task} split {split!r}, which holds 0 to {available}; "
            f"ask for fewer or use a larger split: "
            + ", ".join(f"{name} {num_available(name)}" for name in SPLITS)
        )
