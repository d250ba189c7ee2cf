"""A model with its weights in other types than it is stored in: those in blocks as float32, or all in blocks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from flover.errors import ConfigError
from flover.files import MAX_JSON_BYTES
from flover.source import ModelSource, Naming, TensorInfo
from flover.source.numbers import widen
from flover.weight_formats import GGUF_BLOCKS
from flover_benchmarks.rivals.quants import KINDS, fits, pack_rows


def in_blocks(source: ModelSource) -> bool:
    """Whether a model has weights in GGUF's blocks. Raises `ConfigError` for those of another kind."""
    kinds = {info.dtype for info in source.tensors() if not info.is_float}
    others = sorted(kinds - GGUF_BLOCKS.keys())
    if others:
        raise ConfigError(f"{source.path} is stored in {', '.join(others)}, of which this benchmark makes no float32")
    return bool(kinds)


@dataclass(frozen=True, slots=True)
class Recast:
    """`inner` with its blocks as float32, and then its matrices quantized to `kind` if that is given."""

    inner: ModelSource
    kind: str | None = None

    @property
    def path(self) -> Path:
        return self.inner.path

    @property
    def naming(self) -> Naming:
        return self.inner.naming

    def where(self, name: str) -> str:
        return self.inner.where(name)

    def has(self, name: str) -> bool:
        return self.inner.has(name)

    def text(self, name: str, limit: int) -> str | None:
        return self.inner.text(name, limit)

    def data(self, name: str, limit: int) -> bytes | None:
        return self.inner.data(name, limit)

    def document(self, name: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        return self.inner.document(name, limit)

    def tensors(self) -> list[TensorInfo]:
        return [self._info(info) for info in self.inner.tensors()]

    def read(self, infos: Sequence[TensorInfo]) -> Iterator[tuple[TensorInfo, Any]]:
        wanted = {info.name: info for info in infos}
        for info, raw in self.inner.read([info for info in self.inner.tensors() if info.name in wanted]):
            floats = widen(raw) if info.is_float else dequantized(raw, info.dtype)
            own = wanted[info.name]
            yield own, floats if own.is_float else pack_rows(own.dtype, floats).reshape(*floats.shape[:-1], -1)

    def input_order(self, info: TensorInfo) -> Any:
        return self.inner.input_order(info)

    def _info(self, info: TensorInfo) -> TensorInfo:
        if self.kind is not None and len(info.shape) > 1 and fits(self.kind, info.shape[-1]):
            form = KINDS[self.kind]
            size = math.prod(info.shape) // form.block * form.size
            return dataclasses.replace(info, dtype=self.kind, num_bytes=size)
        return dataclasses.replace(info, dtype="F32", num_bytes=4 * math.prod(info.shape))


def dequantized(blocks: Any, kind: str) -> Any:
    """The numbers of blocks, float32, by llama.cpp's own package."""
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind.upper()])
