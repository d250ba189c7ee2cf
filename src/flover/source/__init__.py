"""A model as it is stored: documents, and tensors by name. `open_source` finds out in which form.

Documents have the names and the contents of the files of a Hugging Face directory (config.json, tokenizer.json, …)
whatever the form, so that who reads one need not know it. Everything here is data of strangers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from flover.files import MAX_JSON_BYTES

Layout = Literal["plain", "interleaved", "transposed_interleaved", "transposed", "by_group", "by_quarter", "paired"]
"""The order of the numbers of a linear's weight: [out, in] ("plain"); [in, out] ("transposed", GPT-2's Conv1D); rows
ordered by key/value head, then its queries, key and value ("by_group", GPT-NeoX, Falcon); queries, values and keys of a
quarter of the heads, four times ("by_quarter", CodeGen); those of gate and up in turn ("interleaved", gpt-oss; or
[in, out] of them, "transposed_interleaved"); or the rows of every head as 0, d/2, 1, d/2 + 1, …, for a
rotary embedding that turns neighbours ("paired", LLaMA in GGUF). Biases have the same order, and nothing to transpose.
"""
Naming = Literal["hugging_face", "gguf"]
GGUF_SUFFIX = ".gguf"
FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
"""Types of plain numbers, as safetensors calls them."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a file, not read yet. `dtype` is safetensors' name of its type, or that of blocks ("q4_k");
    `layout` is None where it is the one that the family's checkpoints have, `start` its first byte in the file where
    the reader needs that."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    file: Path
    layout: Layout | None = None
    start: int = 0

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_TYPES


class ModelSource(Protocol):
    """Where a model is read from. Every method raises `ModelError` for what is damaged or not understood."""

    @property
    def path(self) -> Path:
        """What a user calls it: a directory, or a GGUF file."""
        ...

    @property
    def naming(self) -> Naming:
        """Who gave the tensors their names."""
        ...

    def where(self, name: str) -> str:
        """What an error calls a document."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a document of this name."""
        ...

    def text(self, name: str, limit: int) -> str | None:
        """A document of at most `limit` bytes; None if there is none."""
        ...

    def data(self, name: str, limit: int) -> bytes | None:
        """A document of at most `limit` bytes that is no text; None if there is none."""
        ...

    def document(self, name: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        """The JSON object in a document; empty if there is none."""
        ...

    def tensors(self) -> list[TensorInfo]:
        """All tensors; none is read."""
        ...

    def read(self, infos: Sequence[TensorInfo]) -> Iterator[tuple[TensorInfo, Any]]:
        """Tensors that `tensors` has listed, one after another, as they lie in the file: each is a numpy array over the
        mapped file (`source.numbers` makes floats of it); blocks are bytes, row by row."""
        ...

    def input_order(self, info: TensorInfo) -> Any | None:
        """The inputs of a matrix in the order in which its blocks have them, int32 [in]; None: as they come."""
        ...


def open_source(path: Path) -> ModelSource:
    """The model in a directory or a GGUF file. Raises `ModelError` for a GGUF file that is damaged."""
    if path.suffix == GGUF_SUFFIX and not path.is_dir():
        from flover.source.gguf import open_gguf

        return open_gguf(path)
    from flover.source.directory import Directory

    return Directory(path)
