"""Tables and figures, rebuilt from run folders. Reads files only; imports tspin.artifacts alone."""
