"""log pi(z | x) of responses: padded rows, and streams without padding."""
