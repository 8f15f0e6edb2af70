"""Tables and figures, a module for each family."""
