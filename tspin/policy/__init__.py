"""The language model that is trained: where it comes from, loading, computing, saving."""
