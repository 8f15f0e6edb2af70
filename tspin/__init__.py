"""T-SPIN: triplet-based self-play fine-tuning of language models (arXiv 2601.08198)."""
