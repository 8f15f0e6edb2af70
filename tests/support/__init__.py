"""What tests share: tiny models and runs, stand-ins, processes."""
