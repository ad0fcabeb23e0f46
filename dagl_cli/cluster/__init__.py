"""One folder restored by many machines, with Ray."""
