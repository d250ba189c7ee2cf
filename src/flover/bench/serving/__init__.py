"""Serving benchmarks with vLLM's names: serve, latency, throughput, startup, sweep."""
