"""Algorithm 1: sample, score, train, score, evaluate, and again."""
