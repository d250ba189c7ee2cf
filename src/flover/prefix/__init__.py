"""Which pages hold which tokens, in the pool and in the host tier behind it (docs/kv-offload.md). Plain Python."""
