"""Annotated pairs: from files to token ids to triplets {y, y', y0}."""
