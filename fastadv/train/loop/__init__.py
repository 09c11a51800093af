"""The training of networks."""
