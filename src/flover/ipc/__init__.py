"""Processes and what they say to each other: messages, frames on a socket, spawning, exits and restarts."""
