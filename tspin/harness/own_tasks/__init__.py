"""Tasks of ours for lm-eval, a folder each; it finds them by the YAML files."""
