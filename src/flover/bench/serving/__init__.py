"""Serving benchmarks under the field's names: serve, latency, throughput, startup, sweep."""
