"""Test sets, metrics, other methods, the tables of the paper."""
