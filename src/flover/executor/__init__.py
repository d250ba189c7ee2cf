"""The device side of an iteration: plans become batches, a forward and a sampling."""
