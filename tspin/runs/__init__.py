"""The run folder: its files, what is complete, what is shared, kept and copied elsewhere."""
