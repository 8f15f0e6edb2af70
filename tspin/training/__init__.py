"""The parts of an optimiser step: weights, state, several processes, throughput."""
