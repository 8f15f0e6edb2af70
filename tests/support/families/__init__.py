"""Model families of the hub: tiny architectures, folders of their kind, and the page about them."""
