"""Memory that torch keeps of what a GPU has computed, and when the driver gets it back."""

from __future__ import annotations

from flover.ops.cuda.device import Gpu, free_unused, unused_bytes

TRIM_BYTES = 2**28
"""What may stay while the engine idles: to ask the driver for memory again takes milliseconds of a first token."""


class UnusedMemory:
    """Beside weights, pages and captured forwards: what forwards of many tokens needed."""

    def __init__(self, gpu: Gpu) -> None:
        self._device = gpu.device
        self._kept = 0

    def keep(self) -> None:
        """The server is ready: what is unused now stays. (That of captured forwards cannot go.)"""
        self._kept = unused_bytes(self._device)

    def trim(self) -> None:
        """The engine idles: other processes may use what lies beyond this one's share."""
        if unused_bytes(self._device) - self._kept > TRIM_BYTES:
            self.free()

    def free(self) -> None:
        """Give back what can be."""
        free_unused(self._device)
