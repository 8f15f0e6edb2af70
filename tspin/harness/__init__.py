"""Benchmarks of lm-eval, child side: the only importer of lm-eval, started by stages.benchmark."""
