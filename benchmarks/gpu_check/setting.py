"""What a check is given. No torch: it is imported by the process of the check alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tspin.cli.command import check
from tspin.planning.shapes import KNOWN, Shape

if TYPE_CHECKING:
    from tspin.config.run import Run

T = TypeVar("T")
# Prompt, then y, y', y0 of a triplet, in tokens: of the estimates in docs/memory.md.
LENGTHS = (200, 330, 230, 230)
MISTRAL = KNOWN["mistralai/Mistral-7B-v0.1"]
SMALL = Shape(32000, 1024, 2816, 4, 16, 4, 64, tied=False, norms=2 * 1024)
TINY = Shape(288, 64, 96, 2, 4, 1, 16, tied=False, norms=2 * 64)


@dataclass(frozen=True)
class Setting:
    """Where and at which size the checks run.

    tiny         on the CPU, with shapes of a second or two
    folder       of the check that is given it, and of nobody else
    vllm_python  an interpreter that has vLLM; None: this one
    """

    tiny: bool
    folder: Path
    vllm_python: str | None = None

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    def sized(self, card: T, tiny: T) -> T:
        """What is used on a card, or its stand-in."""
        return tiny if self.tiny else card

    def mistral(self, layers: int) -> Shape:
        """So many layers of Mistral-7B's shape; every four heads of queries share keys."""
        return self.sized(replace(MISTRAL, layers=layers), TINY)

    def small(self) -> Shape:
        """Four layers of a quarter of the width, for what needs several copies."""
        return self.sized(SMALL, TINY)

    def lengths(self) -> tuple[int, int, int, int]:
        return self.sized(LENGTHS, (7, 11, 8, 8))

    def run(self, *words: str) -> Run:
        """A run of model=mistral as a user would start it, in the arithmetic of a card."""
        fixed = ("model=mistral", "track=none", f"compute.device={self.device}")
        place = f"runs_dir={self.folder / 'runs'}"
        dtype = "compute.dtype=bfloat16"  # of compute.dtype=auto on CUDA
        moves = "optim.warmup_from=step"  # whatever checks a single step
        words = ("loss=tspin", dtype, moves, "compute.gradient_checkpointing=false", *words)
        return check([*fixed, place, *words]).points[0].run
