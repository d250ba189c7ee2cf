"""A model as a directory of Hugging Face: JSON files, and safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flover.files import MAX_JSON_BYTES, is_there, read_optional_object, read_text
from flover.source import Naming, TensorInfo


@dataclass(frozen=True, slots=True)
class Directory:
    """Its documents are its files."""

    path: Path
    naming: Naming = "hugging_face"

    def where(self, name: str) -> str:
        return str(self.path / name)

    def has(self, name: str) -> bool:
        return is_there(self.path / name)

    def text(self, name: str, limit: int) -> str | None:
        return read_text(self.path / name, limit) if self.has(name) else None

    def document(self, name: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        return read_optional_object(self.path / name, limit)

    def tensors(self) -> list[TensorInfo]:
        from flover.source.safetensors import find_files, list_tensors

        return [info for file in find_files(self.path) for info in list_tensors(file)]

    def read(self, infos: Sequence[TensorInfo]) -> Iterator[tuple[TensorInfo, Any]]:
        from flover.source.safetensors import read_tensors

        for file in dict.fromkeys(info.file for info in infos):
            mine = {info.name: info for info in infos if info.file == file}
            for name, tensor in read_tensors(file, list(mine)):
                yield mine[name], tensor
