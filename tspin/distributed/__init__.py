"""Several processes: how they were started and what they tell each other."""
