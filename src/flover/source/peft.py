"""A LoRA adapter as PEFT saves it: a directory with adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flover.errors import ModelError
from flover.files import is_there, open_regular, read_object, shown
from flover.lora import LoraAdapter
from flover.source import FLOAT_TYPES, GGUF_SUFFIX, TensorInfo
from flover.source.numbers import StoredFloats, widen
from flover.source.peft_config import LoraSettings, read_lora_settings
from flover.source.safetensors import MappedFile, list_tensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_WEIGHTS_BYTES = 16 * 2**30
_CHUNK_BYTES = 2**20
_PREFIX = "base_model.model."
_ENDS = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two matrices of one module, not read yet: `down` [rank, in] and `up` [out, rank]."""

    module: str
    down: TensorInfo
    up: TensorInfo


def find_adapter(name: str, path: str, generation: int = 0) -> LoraAdapter:
    """The adapter in a directory as it is now, its settings checked. Raises `ModelError`."""
    folder = Path(path)
    _check_form(folder)
    read_lora_settings(read_object(folder / CONFIG_FILE, MAX_CONFIG_BYTES), str(folder / CONFIG_FILE))
    return LoraAdapter(name, path, digest_of(folder), generation)


def digest_of(folder: Path) -> str:
    """SHA-256 of both files, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, limit in ((CONFIG_FILE, MAX_CONFIG_BYTES), (WEIGHTS_FILE, MAX_WEIGHTS_BYTES)):
        with open_regular(folder / name, limit) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


class PeftAdapter:
    """The files of an adapter, which have to be those that `adapter` was made of. Raises `ModelError`."""

    def __init__(self, adapter: LoraAdapter) -> None:
        folder = Path(adapter.path)
        _check_form(folder)
        if digest_of(folder) != adapter.digest:
            raise ModelError(f"{folder} has changed since the adapter {shown(adapter.name)} was loaded: load it again")
        where = folder / CONFIG_FILE
        self.path = folder / WEIGHTS_FILE
        self.settings: LoraSettings = read_lora_settings(read_object(where, MAX_CONFIG_BYTES), str(where))
        self._infos = {info.name: info for info in list_tensors(self.path)}
        self._mapped = MappedFile(self.path)

    def pairs(self) -> Iterator[LoraPair]:
        """Every adapted module with its matrices, in the order of names."""
        for name in sorted(self._infos):
            end = next((end for end in _ENDS if name.endswith(end)), None)
            if end is None or not name.startswith(_PREFIX):
                raise ModelError(
                    f"{self.path} has the tensor {shown(name)}; {_PREFIX}….lora_A.weight and lora_B.weight are computed"
                )
            stem = name.removesuffix(end)
            down, up = (self._infos.get(f"{stem}{one}") for one in _ENDS)
            if down is None or up is None:
                raise ModelError(f"{self.path} has one of two matrices of {shown(stem)}: {shown(name)}")
            if end == _ENDS[0]:
                yield LoraPair(stem.removeprefix(_PREFIX), down, up)

    def numbers(self, info: TensorInfo) -> StoredFloats:
        """A tensor in the type that it has, float64 as float32. Raises `ModelError` for numbers that are not finite."""
        if info.dtype not in FLOAT_TYPES:
            raise ModelError(f"{info.file}: {info.name} has the type {info.dtype}; {', '.join(FLOAT_TYPES)} are read")
        stored = np.array(self._mapped.tensor(info.name))
        found = widen(stored)
        if not np.isfinite(found).all():
            raise ModelError(f"{info.file}: {info.name} holds a number that is not finite: the file is damaged")
        return found if info.dtype == "F64" else stored


def _check_form(folder: Path) -> None:
    """Refuse by name what is an adapter in another form."""
    if folder.suffix == GGUF_SUFFIX:
        raise ModelError(f"{folder} is a GGUF file; adapters are read from directories of PEFT ({CONFIG_FILE})")
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a directory with {CONFIG_FILE} and {WEIGHTS_FILE}")
    if not is_there(folder / CONFIG_FILE):
        raise ModelError(f"{folder} has no {CONFIG_FILE}: adapters are read as PEFT saves them")
    if not is_there(folder / WEIGHTS_FILE):
        other = (
            " (adapter_model.bin is a pickle, which can run code and is never read)"
            if is_there(folder / "adapter_model.bin")
            else ""
        )
        raise ModelError(f"{folder} has no {WEIGHTS_FILE}{other}")
