"""How the weights of a safetensors checkpoint are quantized: `quantization_config` of its config.json.

Which matrices are quantized is not asked here: their tensors say it (`quantized.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flover.errors import ModelError
from flover.files import shown

Packing = Literal["gptq", "awq", "mxfp4", "pack-quantized", "int-quantized", "float-quantized", "mxfp4-pack-quantized"]
"""How a matrix lies in its tensors. mxfp4 is gpt-oss's: the experts of a layer stacked. The last four are formats of
compressed-tensors; float-quantized is also what the method fp8 stores."""
MAX_GROUP = 2**24
KEYS = ("quantization_config", "compression_config")
"""Where a config.json says it; the second is what compressed-tensors called it at first."""
_REMEDY = "load the model's float weights, with --quantization int8 or int4 to have them small"


@dataclass(frozen=True, slots=True)
class Scheme:
    """`group_size` inputs of an output share a scale; None: all of them. `plus_one`: zero points are stored less one.
    `method` is what the checkpoint calls it."""

    method: str
    packing: Packing
    bits: int
    group_size: int | None = None
    block: tuple[int, int] | None = None
    """Outputs and inputs that share a scale, where these are blocks."""
    plus_one: bool = False
    fp8_activations: bool = False
    """Whether products are meant to have activations in FP8 too (W8A8)."""

    def __str__(self) -> str:
        if self.packing == "float-quantized":
            shape = f"blocks of {self.block[0]}×{self.block[1]}" if self.block else "a scale for each output or matrix"
            return f"{self.method}, float8_e4m3, {shape}"
        if self.packing == "mxfp4-pack-quantized":
            return f"{self.method}, MXFP4"
        if self.packing == "mxfp4":
            return "MXFP4"
        groups = f"groups of {self.group_size}" if self.group_size else "a scale for each output"
        return f"{self.method}, {self.bits} bits, {groups}"


class Section:
    """An object of a config.json whose values are checked as they are read; null counts as absent."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ModelError(f"{where} must be an object, got {shown(data)}")
        self.data: Mapping[str, Any] = data
        self.where = where

    def get(self, name: str) -> Any:
        return self.data.get(name)

    def section(self, name: str) -> Section | None:
        """The object under this name; None if there is none."""
        value = self.get(name)
        return None if value is None else Section(value, f"{self.where}.{name}")

    def one_of(self, name: str, allowed: tuple[Any, ...], default: Any = None) -> Any:
        """One of these values, which is what is supported."""
        value = default if self.get(name) is None else self.get(name)
        if any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in allowed):
            return value
        raise self.refused(name, f"supported: {', '.join(str(known) for known in allowed)}")

    def refused(self, name: str, why: str) -> ModelError:
        return ModelError(f"{self.where}.{name} is {shown(self.get(name))}, which is not supported ({why}); {_REMEDY}")

    def neutral(self, name: str, *values: Any) -> None:
        """Refuse a value that is neither absent, empty, false nor one of `values`."""
        value = self.get(name)
        if value and value not in values:
            raise self.refused(name, "it changes what is computed")

    def group_size(self, name: str) -> int | None:
        """How many inputs share a scale; None for -1."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not (value == -1 or 1 <= value <= MAX_GROUP):
            raise ModelError(f"{self.where}.{name} must be -1 or an integer from 1 to {MAX_GROUP}, got {shown(value)}")
        return None if value == -1 else value


def read_scheme(config: Mapping[str, Any], where: str) -> Scheme | None:
    """The scheme of a config.json, which errors call `where`; None if its weights are not quantized. Raises
    `ModelError` for what is not supported."""
    name = next((key for key in KEYS if config.get(key) is not None), None)
    if name is None:
        return None
    section = Section(config[name], f"{where}: {name}")
    method = section.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        raise section.refused("quant_method", f"supported: {', '.join(_METHODS)}")
    return _METHODS[method](section)


def _gptq(section: Section) -> Scheme:
    bits = section.one_of("bits", (4, 8))
    name = "checkpoint_format" if section.get("checkpoint_format") is not None else "format"
    stored = section.one_of(name, ("gptq", "gptq_v2"), "gptq")
    section.one_of("pack_dtype", ("int32",), "int32")
    for changed in ("dynamic", "is_marlin_format", "rotation", "adapter"):
        section.neutral(changed)
    return Scheme("gptq", "gptq", bits, section.group_size("group_size"), plus_one=stored == "gptq")


def _awq(section: Section) -> Scheme:
    name = "w_bit" if section.get("bits") is None else "bits"
    bits = section.one_of(name, (4,))
    version = section.get("version")
    if version is not None and (not isinstance(version, str) or version.lower() != "gemm"):
        raise section.refused("version", "supported: gemm")
    size = "q_group_size" if section.get("group_size") is None else "group_size"
    return Scheme("awq", "awq", bits, section.group_size(size))


def _fp8(section: Section) -> Scheme:
    section.one_of("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
    section.one_of("activation_scheme", ("dynamic", "static"), "dynamic")
    section.neutral("kv_cache_scheme")
    section.neutral("expert_dtype", "fp8")
    return Scheme("fp8", "float-quantized", 8, block=_block(section, "weight_block_size"), fp8_activations=True)


def _mxfp4(section: Section) -> Scheme:
    return Scheme("mxfp4", "mxfp4", 4, 32)


def _block(section: Section, name: str) -> tuple[int, int] | None:
    value = section.get(name)
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2:
        checked = [Section({name: size}, section.where).group_size(name) for size in value]
        if checked[0] and checked[1]:
            return checked[0], checked[1]
    raise ModelError(f"{section.where}.{name} must be a list of two sizes, got {shown(value)}")


def _compressed_tensors(section: Section) -> Scheme:
    for name in ("kv_cache_scheme", "transform_config"):
        section.neutral(name)
    sparsity = section.section("sparsity_config")
    if sparsity is not None:
        sparsity.neutral("format", "dense")
    groups = section.section("config_groups")
    if groups is None or len(groups.data) != 1:
        raise section.refused("config_groups", "supported: one group")
    group = Section(*((value, f"{groups.where}.{shown(key)}") for key, value in groups.data.items()).__next__())
    weights = group.section("weights")
    if weights is None:
        raise group.refused("weights", "the weights must be quantized")
    group.neutral("output_activations")
    activations = group.section("input_activations")
    if activations is not None:
        activations.one_of("num_bits", (8,))
    kind = weights.one_of("type", ("int", "float"), "int")
    bits = weights.one_of("num_bits", (4, 8))
    packing = _packing(group if group.get("format") is not None else section, kind, bits)
    strategies = ("channel", "group") if kind == "int" else ("group",) if bits == 4 else ("tensor", "channel", "block")
    size = weights.get("group_size")
    default = "tensor" if size is None else "channel" if size == -1 else "group"
    strategy = weights.one_of("strategy", strategies, default)
    weights.one_of("actorder", ("group", "weight", "static", "dynamic", False), False)
    weights.neutral("dynamic")
    if packing == "mxfp4-pack-quantized":
        weights.one_of("group_size", (32,))
    return Scheme(
        "compressed-tensors",
        packing,
        bits,
        weights.group_size("group_size") if strategy == "group" else None,
        _block(weights, "block_structure") if strategy == "block" else None,
        fp8_activations=packing == "float-quantized" and activations is not None,
    )


def _packing(section: Section, kind: str, bits: int) -> Packing:
    """By the format, which must be one of the type of numbers; naive-quantized is the same without saying which."""
    if kind == "float" and bits == 4:
        section.one_of("format", ("mxfp4-pack-quantized",))
        return "mxfp4-pack-quantized"
    if kind == "float":
        section.one_of("format", ("float-quantized", "naive-quantized"))
        return "float-quantized"
    stored = section.one_of("format", ("pack-quantized", "int-quantized", "naive-quantized"))
    if stored == "pack-quantized":
        return "pack-quantized"
    if bits != 8:
        raise section.refused("format", f"weights of {bits} bits must be pack-quantized")
    return "int-quantized"


_METHODS: Mapping[str, Callable[[Section], Scheme]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
}
