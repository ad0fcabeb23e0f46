"""The network: DAGL and its attention."""
