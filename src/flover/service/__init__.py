"""Engines as a service: engine processes, their clients, supervision and routing among data-parallel replicas."""
