"""T-SPIN: triplet-based self-play fine-tuning of language models (arXiv 2601.08198)."""

__version__ = "0.1.0"  # pyproject.toml, provenance.json and model cards read it here
