"""What the settings of the host tier (`--kv-offload-…`) go together with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flover.config.speculative import draft_model_of
from flover.errors import ConfigError

if TYPE_CHECKING:
    from flover.config.engine import EngineConfig

FLAG = "--kv-offload-bytes"
NEEDS_CPU = f"{FLAG} needs --device cpu: pages of a GPU are not copied to the host yet"


def check_offload(config: EngineConfig) -> None:
    """Raises `ConfigError` for settings that exclude each other."""
    if config.kv_offload_bytes is None:
        if config.kv_offload_path is not None or config.kv_offload_persistent:
            flag = "--kv-offload-persistent" if config.kv_offload_persistent else "--kv-offload-path"
            raise ConfigError(f"{flag} needs {FLAG}: there is no host tier without a size")
        return
    if not config.enable_prefix_caching:
        raise ConfigError(f"{FLAG} needs prefix caching: it keeps the pages of prefixes")
    if config.device == "cuda":
        raise ConfigError(NEEDS_CPU)
    if draft_model_of(config.speculative_config) is not None:
        raise ConfigError(f"{FLAG} excludes a draft model: what that has computed of a page is not stored")
    if not config.kv_offload_persistent:
        return
    if config.kv_offload_path is None:
        raise ConfigError("--kv-offload-persistent needs --kv-offload-path, a directory for what is kept")
    for flag, given, why in (
        ("--tensor-parallel-size", config.tensor_parallel_size > 1, "the parts of a page are written by several ranks"),
        ("--enable-lora", config.enable_lora, "an adapter may be another one at the next start"),
        ("--trace", config.trace is not None, "a record begins with an empty prefix cache"),
    ):
        if given:
            raise ConfigError(f"--kv-offload-persistent excludes {flag}: {why}")
