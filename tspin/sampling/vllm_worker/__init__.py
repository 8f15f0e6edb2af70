"""vLLM, child side. A folder of its own: a script finds its neighbours before any library."""
