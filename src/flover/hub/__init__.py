"""Models of a hub: their names, their download, and what of them is on this machine."""
