"""Other engines on the same tensors, through the same client, in the same run."""
