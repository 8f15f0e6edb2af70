"""What a run will take: weights, memory, hours and disk, before it starts."""
