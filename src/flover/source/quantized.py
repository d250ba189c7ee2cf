"""The matrices of a quantized safetensors checkpoint: which tensors make one, and its rows as blocks.

A module's `weight` lies in several tensors, such as `qweight`, `qzeros`, `scales` and `g_idx`. Shapes and types are
compared with the scheme before a number is read; errors name the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flover.errors import ModelError
from flover.source import TensorInfo
from flover.source.quantization import Packing, Scheme
from flover.source.quantized_blocks import integer_format
from flover.source.quantized_matrix import Matrix
from flover.weight_formats import BLOCKS, WeightFormat

_FORMATS: Mapping[Packing, WeightFormat] = {
    "float-quantized": "fp8_e4m3",
    "mxfp4-pack-quantized": "mxfp4",
    "mxfp4": "mxfp4",
}
"""What other packings are kept as depends on how many inputs share a scale."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the tensors of a matrix are called: its numbers, of these types; its scales; its zero points and the group
    of each input, if it has them; and what is not needed, since activations are not rounded as it says."""

    numbers: str
    types: tuple[str, ...]
    scales: tuple[str, ...]
    zeros: str | None = None
    groups: str | None = None
    unused: tuple[str, ...] = ()
    zeros_needed: bool = False

    @property
    def others(self) -> tuple[str, ...]:
        """All but the numbers."""
        return (*self.scales, *(part for part in (self.zeros, self.groups) if part), *self.unused)


FLOATS = ("F16", "BF16", "F32")
_ACTIVATIONS = ("input_scale", "input_global_scale", "input_zero_point", "activation_scale", "weight_shape")
NAMES: Mapping[Packing, Names] = {
    "gptq": Names("qweight", ("I32",), ("scales",), "qzeros", "g_idx", zeros_needed=True),
    "awq": Names("qweight", ("I32",), ("scales",), "qzeros", zeros_needed=True),
    "pack-quantized": Names(
        "weight_packed", ("I32",), ("weight_scale",), "weight_zero_point", "weight_g_idx", _ACTIVATIONS
    ),
    "int-quantized": Names("weight", ("I8",), ("weight_scale",), unused=_ACTIVATIONS),
    "mxfp4-pack-quantized": Names("weight_packed", ("U8",), ("weight_scale",), unused=_ACTIVATIONS),
    "float-quantized": Names("weight", ("F8_E4M3",), ("weight_scale_inv", "weight_scale"), unused=_ACTIVATIONS),
}


def find_matrices(stored: Sequence[TensorInfo], scheme: Scheme) -> tuple[list[TensorInfo], dict[str, Matrix]]:
    """The tensors of a checkpoint that are as they are, and its quantized matrices by the name of the weight. Raises
    `ModelError` for tensors that do not belong together."""
    by_name = {info.name: info for info in stored}
    if len(by_name) < len(stored):
        twice = next(info for info in stored if info is not by_name[info.name])
        raise ModelError(f"{twice.file}: {twice.name} is in {by_name[twice.name].file} too")
    if scheme.packing == "mxfp4":
        return _stacked(by_name, scheme)
    names = NAMES[scheme.packing]
    plain, matrices = dict(by_name), {}
    for info in by_name.values():
        module, _, suffix = info.name.rpartition(".")
        if suffix != names.numbers or (suffix == "weight" and info.dtype not in names.types):
            continue
        parts = {part: by_name[f"{module}.{part}"] for part in names.others if f"{module}.{part}" in by_name}
        matrices[f"{module}.weight"] = _matrix(f"{module}.weight", info, names, parts, scheme)
        for part in (info, *parts.values()):
            del plain[part.name]
    return list(plain.values()), matrices


def inputs_per_scale(scheme: Scheme, in_size: int) -> int:
    """How many inputs of a matrix have a scale in common."""
    if scheme.packing == "mxfp4-pack-quantized":
        return BLOCKS["mxfp4"].inputs
    if scheme.block is not None:
        return scheme.block[1]
    return in_size if scheme.group_size is None else scheme.group_size


def format_of(scheme: Scheme, in_size: int) -> WeightFormat | None:
    """What a matrix of so many inputs is kept as; None if nothing holds it."""
    return _FORMATS.get(scheme.packing) or integer_format(scheme.bits, inputs_per_scale(scheme, in_size))


def _stacked(by_name: Mapping[str, TensorInfo], scheme: Scheme) -> tuple[list[TensorInfo], dict[str, Matrix]]:
    """The same of gpt-oss: [experts, out, blocks, 16] and the blocks' scales, of each name."""
    plain, matrices = dict(by_name), {}
    for numbers in by_name.values():
        name = numbers.name.removesuffix("_blocks")
        if name == numbers.name:
            continue
        scales = by_name.get(f"{name}_scales")
        if scales is None:
            raise ModelError(f"{numbers.file}: {numbers.name} has no {name}_scales beside it")
        _check(numbers, ("U8",), (*numbers.shape[:3], 16))
        _check(scales, ("U8",), numbers.shape[:3])
        if 0 in numbers.shape:
            raise ModelError(f"{numbers.file}: {numbers.name} has shape {list(numbers.shape)}, which is empty")
        experts, out_size, count = numbers.shape[:3]
        size = experts * out_size * count * BLOCKS["mxfp4"].num_bytes
        info = replace(numbers, name=name, dtype="mxfp4", shape=(experts, out_size, 32 * count), num_bytes=size)
        matrices[name] = Matrix(info, scheme, numbers, scales, None, None, 32)
        del plain[numbers.name], plain[scales.name]
    return list(plain.values()), matrices


def _matrix(name: str, numbers: TensorInfo, names: Names, parts: Mapping[str, TensorInfo], scheme: Scheme) -> Matrix:
    scales = next((parts[part] for part in names.scales if part in parts), None)
    zeros, groups = parts.get(names.zeros or ""), parts.get(names.groups or "")
    missing = [names.scales[0]] if scales is None else []
    missing += [names.zeros] if names.zeros and names.zeros_needed and zeros is None else []
    if scales is None or missing:
        raise ModelError(f"{numbers.file}: {numbers.name} has no {' and no '.join(missing)} beside it")
    if len(numbers.shape) != 2 or 0 in numbers.shape:
        raise ModelError(f"{numbers.file}: {numbers.name} has shape {list(numbers.shape)}, but a matrix has two sizes")
    _check(numbers, names.types, numbers.shape)
    out_size, in_size = _size(numbers.shape, scheme)
    shared, weight_format = inputs_per_scale(scheme, in_size), format_of(scheme, in_size)
    step = BLOCKS[weight_format].inputs if weight_format else 32
    if weight_format is None or in_size % step or shared % step or (scheme.block is None and in_size % shared):
        raise ModelError(
            f"{numbers.file}: {numbers.name} has {in_size} inputs, of which {shared} share a scale: only whole groups "
            f"of a multiple of {step} are supported"
        )
    count = -(-in_size // shared)
    _check(scales, ("U8",) if weight_format == "mxfp4" else FLOATS, *_scale_shapes(out_size, count, scheme))
    words = -(-out_size * scheme.bits // 32)
    if zeros is not None:
        _check(zeros, ("I32",), (words, count) if scheme.packing == "pack-quantized" else (count, words))
    if groups is not None:
        _check(groups, ("I32",), (in_size,))
    num_bytes = out_size * BLOCKS[weight_format].row_bytes(in_size)
    info = replace(numbers, name=name, dtype=weight_format, shape=(out_size, in_size), num_bytes=num_bytes)
    return Matrix(info, scheme, numbers, scales, zeros, groups, shared)


def _size(shape: tuple[int, ...], scheme: Scheme) -> tuple[int, int]:
    """Outputs and inputs of a matrix whose numbers have this shape."""
    first, second = shape
    match scheme.packing:
        case "gptq":
            return second, first * 32 // scheme.bits
        case "awq":
            return second * 32 // scheme.bits, first
        case "pack-quantized":
            return first, second * 32 // scheme.bits
        case "mxfp4-pack-quantized":
            return first, second * 2
        case _:
            return first, second


def _scale_shapes(out_size: int, count: int, scheme: Scheme) -> list[tuple[int, ...]]:
    """The shapes that the scales of `count` groups of inputs may have."""
    if scheme.packing in ("gptq", "awq"):
        return [(count, out_size)]
    if scheme.block is not None:
        return [(-(-out_size // scheme.block[0]), count)]
    for_all: list[tuple[int, ...]] = [(), (1,), (1, 1)] if scheme.packing == "float-quantized" else []
    return [(out_size, count), *([(out_size,)] if count == 1 else []), *for_all]


def _check(info: TensorInfo, types: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
    if info.dtype not in types:
        raise ModelError(f"{info.file}: {info.name} has type {info.dtype}, but {' or '.join(types)} is expected")
    if info.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ModelError(
            f"{info.file}: {info.name} has shape {list(info.shape)}, but by quantization_config and the tensors beside "
            f"it {expected} is expected"
        )
