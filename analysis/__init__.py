"""Tables and figures, rebuilt from run folders. Reads files only, of runs and no model."""
