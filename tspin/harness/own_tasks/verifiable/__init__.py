"""data=verifiable as a task of lm-eval: verifiable.yaml, and what it calls."""
