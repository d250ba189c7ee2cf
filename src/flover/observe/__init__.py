"""Observers of the engine: the timeline of iterations, traces for Perfetto, records and their replay."""
