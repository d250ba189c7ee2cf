"""Safetensors files: which belong to a directory, what they hold, one tensor at a time.

Pickled weights are never opened, and no path in an index leads out of the directory.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from flover.errors import ModelError
from flover.files import check_regular, is_there, open_regular, read_object, shown
from flover.source import TensorInfo
from flover.source.numbers import STORED

MAX_HEADER_BYTES = 100_000_000
"""Longest header of a safetensors file, as the format's own library has it."""
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_FILE_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,200}\.safetensors")
_NAMED = 5  # files to name in one error
_OTHER_WEIGHTS = {
    ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"): (
        "has its weights only as pickles ({name}), which can run code and are never read; convert them to safetensors, "
        "with transformers: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"
    ),
    ("*.gguf",): ("has its weights only as GGUF: give the file itself, {name}, as the model"),
    ("adapter_model.safetensors",): (
        "has only an adapter ({name}); merge it into its base model and save the whole, with peft: "
        "merge_and_unload().save_pretrained(…)"
    ),
    ("*.h5", "*.msgpack", "*.onnx"): "has its weights only as {name}; they are read from safetensors alone",
}


def find_files(directory: Path) -> list[Path]:
    """The weight files of a model directory: the one file, the files of the index, or the only one there is."""
    if is_there(directory / SINGLE_FILE):
        return [directory / SINGLE_FILE]
    if is_there(directory / INDEX_FILE):
        return _indexed_files(directory)
    found = [path for path in sorted(directory.glob("*.safetensors")) if not path.name.startswith("adapter_")]
    if len(found) == 1:
        return found
    if found:
        names = ", ".join(path.name for path in found[:_NAMED])
        raise ModelError(f"{directory} has several weight files ({names}) but no {INDEX_FILE} that says which belong")
    raise ModelError(f"{directory} {_what_instead(directory)}")


def _what_instead(directory: Path) -> str:
    """Why a directory has no weights that can be read, and what to do."""
    for patterns, answer in _OTHER_WEIGHTS.items():
        names = sorted(path.name for pattern in patterns for path in directory.glob(pattern))
        if names:
            return answer.format(name=names[0])
    return f"has no weights: {SINGLE_FILE} or {INDEX_FILE} is needed"


def _indexed_files(directory: Path) -> list[Path]:
    path = directory / INDEX_FILE
    weight_map = read_object(path).get("weight_map")
    if weight_map is not None and not isinstance(weight_map, dict):
        raise ModelError(f"{path}: weight_map must be an object, got {shown(weight_map)}")
    if not weight_map:
        raise ModelError(f"{path}: weight_map is missing or empty")
    names = set()
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise ModelError(
                f"{path}: weight_map puts {shown(tensor)} into {shown(name)}, which is not a plain .safetensors file "
                "name"
            )
        names.add(name)
    missing = sorted(name for name in names if not is_there(directory / name))
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ModelError(f"{path} names files that are not there: {', '.join(missing[:_NAMED])}{more}")
    return [directory / name for name in sorted(names)]


def list_tensors(path: Path) -> list[TensorInfo]:
    """Names, types and shapes from a file's header. Raises `ModelError` naming a file that is damaged."""
    _check_header_length(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118 (not a dict)
            return [_info(path, name, part.get_dtype(), tuple(part.get_shape())) for name, part in slices]
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a valid safetensors file: {error}") from error


def _info(path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    num_bytes = math.prod(shape) * np.dtype(STORED[dtype]).itemsize if dtype in STORED else 0
    return TensorInfo(name, dtype, shape, num_bytes, path)


class MappedFile:
    """A file that has been through `list_tensors`, which checks all of its header."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self._header = json.loads(file.read(length))
            self._mapped = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A tensor as it lies in the file, a view of it: `widen` makes numbers of it."""
        entry = self._header[name]
        first, end = entry["data_offsets"]
        return self._mapped[first:end].view(STORED[entry["dtype"]]).reshape(entry["shape"])


def _check_header_length(path: Path) -> None:
    """Compare the header's length with the file's before anything is mapped or allocated."""
    size = check_regular(path)
    with open_regular(path, size) as file:
        length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ModelError(f"{path} is cut short: it has {size} bytes and announces a header of {length}")
    if length > MAX_HEADER_BYTES:
        raise ModelError(f"{path} announces a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
