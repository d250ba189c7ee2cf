"""Which LoRA adapter a request is computed with."""

from __future__ import annotations

import msgspec


class LoraAdapter(msgspec.Struct, frozen=True):
    """An adapter as it was when it was loaded: `digest` is that of its files, and `generation` counts the times that a
    name was loaded, so that no request meets what another generation has left in a cache."""

    name: str
    path: str
    digest: str
    generation: int = 0

    @property
    def salt(self) -> str:
        """What separates its prefixes from those of other adapters and of the model alone."""
        return f"lora:{self.name}:{self.digest}:{self.generation}"
