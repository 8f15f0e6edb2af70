"""The lines of Algorithm 1, each a function from files to files."""
