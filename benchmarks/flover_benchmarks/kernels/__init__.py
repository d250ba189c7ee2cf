"""Kernel benchmarks: every op and shape, compared with the machine's limits and with torch."""
