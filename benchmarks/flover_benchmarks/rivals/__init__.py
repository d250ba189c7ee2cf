"""Comparison with other engines on the same tensors, with the same client, in one run."""
