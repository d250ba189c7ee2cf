"""A model as GGUF: one file, or the parts of a split one. Its documents are made from its metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flover.errors import ModelError
from flover.files import MAX_JSON_BYTES, is_there
from flover.source import FLOAT_TYPES, Layout, Naming, TensorInfo
from flover.source.gguf_config import config_of, generation_config_of, is_paired
from flover.source.gguf_file import GgufFile, Stored, read_header
from flover.source.gguf_tokenizer import tokenizer_config_of, tokenizer_of
from flover.source.gguf_types import TYPES

_ONE_ROW = ".ffn_gate_inp_shexp.weight"
"""A matrix of one output, which llama.cpp stores as a vector."""
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def open_gguf(path: Path) -> Gguf:
    """The model in a file, or in all parts of a split one, of which `path` is the first. Raises `ModelError`."""
    first = read_header(path)
    count = first.metadata.get("split.count", 1)
    split = _SPLIT.fullmatch(path.name)
    if count == 1 or split is None:
        if count != 1:
            raise ModelError(f"{path} is one of {count} parts; name it …-00001-of-{count:05}.gguf, as it was split")
        return Gguf(path, (first,))
    if int(split["number"]) != 1 or int(split["count"]) != count:
        raise ModelError(f"{path} is part {split['number']} of {count}: give the first, …-00001-of-{count:05}.gguf")
    files = [first]
    for number in range(2, count + 1):
        other = path.with_name(f"{split['stem']}-{number:05}-of-{count:05}.gguf")
        if not is_there(other):
            raise ModelError(f"{path} is the first of {count} parts, but {other.name} is not beside it")
        files.append(read_header(other))
        if files[-1].metadata.get("split.no") != number - 1 or files[-1].metadata.get("split.count") != count:
            raise ModelError(f"{other} does not say that it is part {number} of {count}")
    total = first.metadata.get("split.tensors.count")
    if total != sum(len(file.tensors) for file in files):
        raise ModelError(f"{path} and its other parts do not hold the {total} tensors that the first announces")
    return Gguf(path, tuple(files))


@dataclass(frozen=True)
class Gguf:
    """`files` are the headers of all parts."""

    path: Path
    files: tuple[GgufFile, ...]
    naming: Naming = "gguf"

    def where(self, name: str) -> str:
        return f"{self.path}, metadata read as {name}"

    def has(self, name: str) -> bool:
        if name == "tokenizer.json":  # to make it takes seconds
            return str(self.files[0].metadata.get("tokenizer.ggml.model", "none")) != "none"
        return bool(self._document(name))

    def text(self, name: str, limit: int) -> str | None:
        found = self._document(name)
        if not found:
            return None
        text = json.dumps(found, ensure_ascii=False)
        if len(text) > limit:
            raise ModelError(f"{self.where(name)} has {len(text)} characters; at most {limit} are read")
        return text

    def data(self, name: str, limit: int) -> bytes | None:
        return None

    def document(self, name: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        return dict(self._document(name))

    def _document(self, name: str) -> Mapping[str, Any]:
        match name:
            case "config.json":
                return self._config
            case "generation_config.json":
                return generation_config_of(self.files[0])
            case "tokenizer.json":
                return tokenizer_of(self.files[0])
            case "tokenizer_config.json":
                return tokenizer_config_of(self.files[0])
            case _:
                return {}

    @cached_property
    def _config(self) -> dict[str, Any]:
        return config_of(self.files[0], {info.name: info for info in self.tensors()}, self._numbers)

    def input_order(self, info: TensorInfo) -> None:
        return None

    def _numbers(self, info: TensorInfo) -> list[float]:
        """A small tensor of plain numbers."""
        from flover.source.numbers import widen

        ((_, found),) = self.read([info])
        return [float(number) for number in widen(found)]

    def tensors(self) -> list[TensorInfo]:
        return [self._info(file, stored) for file in self.files for stored in file.tensors]

    def _info(self, file: GgufFile, stored: Stored) -> TensorInfo:
        layout: Layout = "paired" if is_paired(self.files[0], stored.name) else "plain"
        shape = stored.shape
        if stored.name.endswith(_ONE_ROW) and len(shape) == 1:
            shape = (1, *shape)
        return TensorInfo(
            stored.name,
            TYPES[stored.type].name,
            shape,
            stored.num_bytes,
            file.path,
            layout,
            stored.start,
        )

    def read(self, infos: Sequence[TensorInfo]) -> Iterator[tuple[TensorInfo, Any]]:
        import numpy as np

        from flover.source.numbers import STORED

        for path in dict.fromkeys(info.file for info in infos):
            mapped = np.memmap(path, dtype=np.uint8, mode="r")
            for info in (info for info in infos if info.file == path):
                raw = mapped[info.start : info.start + info.num_bytes]
                if info.dtype in FLOAT_TYPES:
                    yield info, raw.view(STORED[info.dtype]).reshape(info.shape)
                else:
                    yield info, raw.reshape(*info.shape[:-1], -1)
