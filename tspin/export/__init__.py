"""What leaves a run: a policy for others with its card, its pairs."""
