"""Which responses an iteration draws: how, and from which random numbers. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from tspin.config.run import DecodingConfig
from tspin.sampling.requests import sample_seed


@dataclass(frozen=True)
class Draws:
    """The responses of the policy that samples for iteration t, as `seed` decides them."""

    decoding: DecodingConfig
    seed: int
    t: int

    def seed_of(self, prompt_id: str, *, draw: int = 0) -> int:
        """Of a prompt's response. draw: further ones for further responses"""
        return sample_seed(self.seed, self.t, prompt_id, draw=draw)
