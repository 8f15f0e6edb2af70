"""What the claims about speed and size rest on. `suite` is what `make bench` runs, `scale` has many rows."""
