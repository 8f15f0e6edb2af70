"""Weights & Biases: a workspace, and runs sent later."""
