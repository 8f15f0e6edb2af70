"""What people see of a run: W&B, the report of an iteration, warnings."""
