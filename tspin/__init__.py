"""T-SPIN: triplet-based self-play fine-tuning of language models (arXiv 2601.08198)."""

import os

__version__ = "0.1.0"  # pyproject.toml, provenance.json and model cards read it here

# Read by torch at its first tensor: large ones in pages of 2 MB. A step on a CPU makes and drops
# gigabytes, and in pages of 4 kB a sixth of its time in bfloat16 is the kernel's.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
