"""The adapters of a server, by the names that requests give as their model."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from pathlib import Path

from flover.config import EngineConfig, ServerConfig
from flover.config.lora_modules import MAX_NAME_CHARACTERS, read_lora_modules
from flover.errors import ConfigError, EngineError, ModelError, RequestError, quoted
from flover.lora import LoraAdapter, cache_salt
from flover.request import GREEDY, Request, SamplingParams
from flover.server.errors import HttpError
from flover.service.supervisor import Supervisor

OFF = "loading adapters at run time is off: --allowed-lora-path names the directories that they may be in"


class ServedAdapters:
    """Which adapters there are. An engine reads one when the first request with it comes: after an engine was started
    again, and on other replicas, too. Used in one event loop."""

    def __init__(self, engine_config: EngineConfig, config: ServerConfig, model_names: Sequence[str]) -> None:
        self._modules = read_lora_modules(config.lora_modules)
        self._roots = [Path(root) for root in config.allowed_lora_path]
        self._most = engine_config.max_loras
        self._model_names = model_names
        self._by_name: dict[str, LoraAdapter] = {}
        self._generations = itertools.count(1)
        self._loading = asyncio.Lock()
        if not engine_config.enable_lora and (self._modules or self._roots):
            raise ConfigError("--lora-modules and --allowed-lora-path need --enable-lora")
        if len(self._modules) > self._most:
            raise ConfigError(f"--lora-modules has {len(self._modules)} adapters, more than --max-loras {self._most}")
        if both := self._modules.keys() & set(model_names):
            raise ConfigError(f"--lora-modules: {min(both)!r} is the name of the model")

    @property
    def names(self) -> list[str]:
        """In the order in which they were loaded."""
        return list(self._by_name)

    def get(self, name: str | None) -> LoraAdapter | None:
        """The adapter of this name; None if there is none."""
        return None if name is None else self._by_name.get(name)

    def join(self, name: str | None, params: SamplingParams) -> SamplingParams:
        """The parameters of a request for the model `name`. It keeps an adapter that is unloaded meanwhile."""
        adapter = self.get(name)
        return params if adapter is None else params.replace(lora=adapter)

    def find_modules(self) -> list[LoraAdapter]:
        """Those of `--lora-modules`, as they are now. Raises `ModelError`."""
        from flover.source.peft import find_adapter  # numpy is imported where there are adapters

        return [find_adapter(name, path) for name, path in self._modules.items()]

    async def open(self, supervisor: Supervisor, modules: Sequence[LoraAdapter]) -> None:
        """Serve these. Raises `ModelError` for one that does not fit the model."""
        for adapter in modules:
            try:
                await _try_out(supervisor, adapter)
            except RequestError as error:
                raise ModelError(f"--lora-modules: {error.message}") from error
            self._by_name[adapter.name] = adapter

    async def load(self, supervisor: Supervisor, name: str, path: str) -> None:
        """Serve the adapter in a directory. Raises `RequestError`, and a 403 as `HttpError`."""
        folder = self._allowed(path)
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
            raise RequestError(
                f"lora_name must have 1 to {MAX_NAME_CHARACTERS} characters, got {len(name)}", param="lora_name"
            )
        async with self._loading:
            if name in self._by_name or name in self._model_names:
                raise RequestError(f"lora_name {quoted(name)} is served already", param="lora_name")
            if len(self._by_name) >= self._most:
                raise RequestError(f"{self._most} adapters are loaded, the most (--max-loras)", param="lora_name")
            try:
                from flover.source.peft import find_adapter

                adapter = await asyncio.to_thread(find_adapter, name, str(folder), next(self._generations))
            except ModelError as error:
                raise RequestError(f"lora_path: {error}", param="lora_path") from error
            await _try_out(supervisor, adapter)
            self._by_name[name] = adapter

    def unload(self, name: str) -> None:
        """Serve it no more; requests that were accepted before finish with it. Raises a 403 or 404 as `HttpError`."""
        if not self._roots:
            raise HttpError(403, OFF)
        if self._by_name.pop(name, None) is None:
            raise HttpError(404, f"no adapter {quoted(name)} is loaded", param="lora_name", code="model_not_found")

    def _allowed(self, path: str) -> Path:
        """The directory, inside one of those that are allowed once links are resolved; a relative path is one inside
        them."""
        if not self._roots:
            raise HttpError(403, OFF)
        for root in self._roots:
            try:
                found = (root / path).resolve()
                if path and found.is_relative_to(root.resolve()):
                    return found
            except (OSError, RuntimeError, ValueError):  # a path that no file can have
                continue
        raise RequestError(
            f"lora_path {quoted(path, 200)} is not inside a directory of --allowed-lora-path", param="lora_path"
        )


async def _try_out(supervisor: Supervisor, adapter: LoraAdapter) -> None:
    """Compute one token with it, for which an engine has to load it. Raises `RequestError`."""
    params = SamplingParams(**GREEDY, max_tokens=1, detokenize=False, lora=adapter)
    request = Request(
        id=f"lora-{uuid.uuid4().hex}", prompt_ids=[0], params=params, seed=0, salt=cache_salt("", adapter)
    )
    stream = supervisor.submit(request)
    try:
        async for delta in stream:
            if delta.error is not None:
                raise EngineError(delta.error)
    finally:
        stream.close()
