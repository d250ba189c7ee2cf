"""The experiments of the Flover paper, measured on this machine or simulated."""
