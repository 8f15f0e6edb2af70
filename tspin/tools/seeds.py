"""Named randomness: a seed is a function of what it is for, never of what ran before it."""

from __future__ import annotations

import hashlib


def seed_for(*name: int | str) -> int:
    """63-bit seed for a name, e.g. seed_for(seed, "generate", t, prompt_id)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in name)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
