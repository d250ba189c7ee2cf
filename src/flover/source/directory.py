"""A model as a directory of Hugging Face: JSON files, and safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flover.files import MAX_JSON_BYTES, is_there, read_bytes, read_optional_object, read_text
from flover.source import Naming, TensorInfo
from flover.source.quantization import read_scheme

if TYPE_CHECKING:
    from flover.source.quantized_matrix import Matrix
    from flover.source.safetensors import MappedFile


@dataclass(frozen=True)
class Directory:
    """Its documents are its files."""

    path: Path
    naming: Naming = "hugging_face"
    _files: dict[Path, MappedFile] = field(default_factory=dict, repr=False, compare=False)

    def where(self, name: str) -> str:
        return str(self.path / name)

    def has(self, name: str) -> bool:
        return is_there(self.path / name)

    def text(self, name: str, limit: int) -> str | None:
        return read_text(self.path / name, limit) if self.has(name) else None

    def data(self, name: str, limit: int) -> bytes | None:
        return read_bytes(self.path / name, limit) if self.has(name) else None

    def document(self, name: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        return read_optional_object(self.path / name, limit)

    def tensors(self) -> list[TensorInfo]:
        plain, matrices = self._tensors
        return [*plain, *(matrix.info for matrix in matrices.values())]

    @cached_property
    def _tensors(self) -> tuple[list[TensorInfo], dict[str, Matrix]]:
        from flover.source.quantized import find_matrices
        from flover.source.safetensors import find_files, list_tensors

        stored = [info for file in find_files(self.path) for info in list_tensors(file)]
        scheme = read_scheme(self.document("config.json"), self.where("config.json"))
        return (stored, {}) if scheme is None else find_matrices(stored, scheme)

    def read(self, infos: Sequence[TensorInfo]) -> Iterator[tuple[TensorInfo, Any]]:
        for info in infos:
            matrix = self._tensors[1].get(info.name)
            yield info, self._stored(info) if matrix is None else matrix.read(self._stored)

    def input_order(self, info: TensorInfo) -> Any | None:
        matrix = self._tensors[1].get(info.name)
        return None if matrix is None else matrix.order(self._stored)

    def _stored(self, info: TensorInfo) -> Any:
        from flover.source.safetensors import MappedFile

        if info.file not in self._files:
            self._files[info.file] = MappedFile(info.file)
        return self._files[info.file].tensor(info.name)
