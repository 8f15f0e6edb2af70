"""The objectives: what is compared, on log-probabilities of shape (batch,)."""
