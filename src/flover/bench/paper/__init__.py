"""The experiments of the Flover paper, on this machine or simulated."""
