"""Benchmarks beyond those of a server: the paper's experiments, other engines, kernels, accuracy, simulations."""
