"""Runs as frames, and what is computed of them."""
