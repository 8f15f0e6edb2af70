"""The command line: words, sweeps, the plan, status, chat."""
