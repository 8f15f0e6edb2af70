"""What the claims about speed and size rest on: `suite` (make bench); `scale`, many rows."""
