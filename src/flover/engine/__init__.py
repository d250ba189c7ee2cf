"""The core of the paper, in plain Python: it decides, and an `Executor` computes. It imports no array library.
`loop.Engine.step` is one iteration; ARCHITECTURE.md follows a request through the files."""
