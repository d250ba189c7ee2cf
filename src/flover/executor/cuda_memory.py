"""Memory that torch keeps of what a GPU has computed, and when the driver gets it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flover.errors import ConfigError
from flover.ops.cuda.device import Gpu, NoDeviceMemory, free_unused, unused_bytes

TRIM_BYTES = 2**28
"""What may stay while the engine idles: to ask the driver for memory again takes milliseconds of a first token."""


class UnusedMemory:
    """Beside weights, pages and captured forwards: what forwards of many tokens needed."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._device = gpu, gpu.device
        self._kept = 0

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """What is unused at the end of this stays. (That of captured forwards cannot go.) Raises `ConfigError` where
        pages leave too little for forwards."""
        try:
            yield
        except NoDeviceMemory as error:
            raise ConfigError(
                f"{self._gpu.name} has no memory for forwards beside weights and pages: lower "
                "--gpu-memory-utilization, --max-num-seqs or --kv-cache-memory-bytes, or "
                "leave graphs out with --enforce-eager"
            ) from error
        self._kept = unused_bytes(self._device)

    def trim(self) -> None:
        """The engine idles: other processes may use what lies beyond this one's share."""
        if unused_bytes(self._device) - self._kept > TRIM_BYTES:
            self.free()

    def free(self) -> None:
        """Give back what can be."""
        free_unused(self._device)
