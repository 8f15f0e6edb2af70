"""How much of a batch goes through the model at a time. It decides memory and time, no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tspin.config.run import ComputeConfig
from tspin.data.triplets import Triplet, micro_batches, num_tokens
from tspin.objectives import Role


@dataclass(frozen=True)
class Cut:
    """The cut of a batch into micro-batches.

    micro_batch  triplets in each, where max_tokens is None
    max_tokens   tokens in each; a longer triplet goes alone

    Example: Cut(8, None).halved(batch, roles) is Cut(4, None) for a batch of 8 triplets or more.
    """

    micro_batch: int
    max_tokens: int | None

    @classmethod
    def of(cls, compute: ComputeConfig) -> Cut:
        return cls(compute.micro_batch, compute.max_tokens)

    def micro_batches(self, batch: Sequence[Triplet], roles: Sequence[Role]) -> list[list[Triplet]]:
        return list(micro_batches(batch, roles, size=self.micro_batch, max_tokens=self.max_tokens))

    def halved(self, batch: Sequence[Triplet], roles: Sequence[Role]) -> Cut | None:
        """Half the tokens or triplets at a time; None where each triplet goes alone already."""
        if self.max_tokens is None:
            size = min(self.micro_batch, len(batch))
            return replace(self, micro_batch=size // 2) if size > 1 else None
        longest = max(num_tokens([triplet], roles) for triplet in batch)
        size = min(self.max_tokens, num_tokens(batch, roles))
        return replace(self, max_tokens=size // 2) if size > longest else None

    def __str__(self) -> str:
        return f"compute.micro_batch={self.micro_batch} compute.max_tokens={self.max_tokens}"
