"""The embedded default: a generated instruction task and two trained policies of tiny size.

`task` makes and checks the prompts, `build` (`python -m tspin.micro`) retrains the policies from
nothing, README.md is their model card. Importing this package or `task` does not import torch.
"""

from __future__ import annotations

from pathlib import Path


def folder(which: str) -> Path:
    """Folder of a shipped policy and its tokenizer, as `from_pretrained` takes it.

    which   "base" (pre-trained only) or "warm" (base after supervised fine-tuning on other pairs).
    Raises ValueError for any other name.
    """
    if which not in ("base", "warm"):
        raise ValueError(f"no micro policy {which!r}: choose 'base' or 'warm'")
    return Path(__file__).parent / which
