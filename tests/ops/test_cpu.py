"""The CPU kernels mean what the reference says, at any size, and give a row the same bits in any company."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from flover.errors import ConfigError, InvariantError, ModelError
from flover.ops import Ops, Part, WeightFormat, reference
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_weight import NUMBERS, PackedWeight
from ops.bridge import store, torch_ops, unpacked
from ops.rotation import activation_factor, block_of, hadamard, rotated, weight_factor
from ops.spec import SPECS, Inputs

ISAS = instruction_sets()
THREADS = (1, 2, 3)
KINDS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": functools.partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
EPS = 2.0**-24
"""Half a unit in the last place: the relative error of one float32 operation."""
LINEARS = ("weight", "up", "down")
MATRICES = (*LINEARS, "table", "pages", "key_pages", "value_pages")
"""Inputs of the spec that may be kept in bfloat16."""


@functools.cache
def ops_of(isa: str, num_threads: int = 1) -> Ops:
    return torch_ops(isa, num_threads)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(ops: Ops, plain: Tensor, weight_format: WeightFormat, gated: bool = False) -> PackedWeight:
    weight = ops.new_weight((plain.shape[0], plain.shape[1]), weight_format, gated)
    store(weight, 0, plain)
    assert isinstance(weight, PackedWeight)
    return weight


# The spec: every operation against the reference.


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SPECS)
def test_the_reference_in_float32(name: str, isa: str, kept: torch.dtype) -> None:
    """Activations are float32; matrices and pages may be bfloat16. The reference gets the same numbers in float32, but
    for matrices of linears: beside bfloat16, activations are rounded."""
    spec = SPECS[name]
    drawn = spec.make(torch.Generator().manual_seed(1), kept)
    got = spec.run(ops_of(isa), {key: kept_as_it_is(key, value, MATRICES) for key, value in drawn.items()})
    wanted = spec.run(reference.OPS, {key: kept_as_it_is(key, value, LINEARS) for key, value in drawn.items()})
    for place, (ours, exact) in enumerate(zip(got, wanted, strict=True)):
        assert ours.shape == exact.shape
        assert (ours.isnan() == exact.isnan()).all()
        rounded = name == "rotary_write" and place % 3 > 0  # what was written to pages
        difference = (ours.double() - exact.double()).abs().nan_to_num(0)
        tolerance = spec.tolerance[kept if rounded else torch.float32]
        assert difference.max() <= tolerance * exact.double().abs().nan_to_num(0).max()


def kept_as_it_is(name: str, value: Any, names: Sequence[str]) -> Any:
    """These matrices and pages keep their type, everything else is float32."""
    return value if name in names and value.ndim > 1 else widened(value)


def widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


# Linears of odd sizes against float64, with a bound on the error that every order of summation keeps.


def exact_linear(x: Tensor, weight: PackedWeight, bias: Tensor | None, kind: str | None) -> tuple[Tensor, Tensor]:
    """The result in float64, and how far float32 may be from it."""
    plain = unpacked(weight).double()
    if weight.format in ("int8", "int4"):
        sums, bound = exact_integers(x, plain, weight.format)
    else:
        x = x.bfloat16() if weight.format == "bfloat16" else x
        sums, bound = x.double() @ plain.T, x.shape[1] * EPS * (x.double().abs() @ plain.abs().T)
    if bias is not None:
        sums = sums + bias.double()
        bound = bound + 2 * EPS * sums.abs()
    if weight.gated:
        half = plain.shape[0] // 2
        gate, up = KINDS[kind](sums[:, :half]), sums[:, half:]
        gate_bound = activated_bound(sums[:, :half], bound[:, :half], kind)
        bound = gate_bound * up.abs() + gate.abs() * bound[:, half:] + gate_bound * bound[:, half:]
        return gate * up, bound + 2 * EPS * (gate * up).abs() + 1e-30
    return KINDS[kind](sums), activated_bound(sums, bound, kind) + 1e-30


def exact_integers(x: Tensor, plain: Tensor, weight_format: str) -> tuple[Tensor, Tensor]:
    """Rotated rows in integers of -127..127, rounded to nearest even, times the rotated weights."""
    x, factor = rotated(x), activation_factor(x.shape[1])
    reach = x.abs().amax(1, keepdim=True)
    scale = (reach / 127).double() * factor
    inverse = torch.full_like(reach, 127) / reach  # `127 / reach` is the reciprocal times 127: two roundings
    q = (x * torch.where(reach > 0, inverse, 0)).clamp(-127, 127).round().double()
    sums = (q @ plain.T) * scale
    if weight_format == "int8":
        return sums, 4 * EPS * (q.abs() @ plain.abs().T) * scale
    steps = 2 * -(-x.shape[1] // 32) + 4
    # A group's scale and offset are at most twice its largest weight, whatever the single weight is.
    return sums, 4 * steps * EPS * q.abs().sum(1, keepdim=True) * plain.abs().amax(1) * scale


def activated_bound(x: Tensor, bound: Tensor, kind: str | None) -> Tensor:
    """No activation is steeper than 1.2, but for the square; each has its own error."""
    if kind == "relu2":
        return 2 * (x.abs() + bound) * bound + 2 * EPS * x.square()
    return bound if kind is None else 1.2 * bound + 1e-6 * x.abs()


sizes = st.sampled_from([1, 3, 8, 31, 32, 33, 48, 64, 128, 129, 192, 255, 256, 257, 300])
linears = st.fixed_dictionaries(
    {
        "rows": st.one_of(st.sampled_from([0, 1, 2, 3, 6, 7, 13, 97]), st.integers(0, 200)),
        "in_size": st.one_of(sizes, st.integers(1, 300)),
        "out_size": st.sampled_from([1, 2, 15, 16, 17, 33, 50, 64, 65, 129]),
        "gated": st.booleans(),
        "biased": st.booleans(),
        "kind": st.sampled_from(list(KINDS)),
        "isa": st.sampled_from(ISAS),
        "num_threads": st.sampled_from(THREADS),
        "spread": st.sampled_from([0.01, 1.0, 30.0]),
        "seed": st.integers(0, 2**31),
    }
)
LARGE_VOCABULARY = {
    "rows": 3,
    "in_size": 40,
    "out_size": 32003,
    "gated": False,
    "biased": True,
    "kind": None,
    "isa": ISAS[0],
    "num_threads": 2,
    "spread": 1.0,
    "seed": 1,
}


@pytest.mark.parametrize("weight_format", NUMBERS)
@settings(max_examples=60)
@example(drawn=LARGE_VOCABULARY)
@given(drawn=linears)
def test_linears_of_any_size(weight_format: WeightFormat, drawn: dict[str, Any]) -> None:
    ops = ops_of(drawn["isa"], drawn["num_threads"])
    gated, seed, rows = drawn["gated"], drawn["seed"], drawn["rows"]
    out_size = drawn["out_size"] * (2 if gated else 1)
    weight = packed(ops, normal(seed, out_size, drawn["in_size"]) / 5, weight_format, gated)
    x = drawn["spread"] * normal(seed + 1, rows, drawn["in_size"])
    x[rows // 2 : rows // 2 + 1] = 0
    bias = normal(seed + 2, out_size) if drawn["biased"] else None
    y = ops.linear(x, weight, bias, drawn["kind"])
    wanted, bound = exact_linear(x, weight, bias, drawn["kind"])
    assert y.shape == wanted.shape == (rows, drawn["out_size"])
    assert y.dtype == torch.float32
    assert ((y.double() - wanted).abs() <= bound).all()


@pytest.mark.parametrize("weight_format", NUMBERS)
@pytest.mark.parametrize("gated", [False, True])
def test_weights_come_near_what_was_stored(weight_format: WeightFormat, gated: bool) -> None:
    """In any order of rows; half a step of the format away at most."""
    for inputs in (75, 96, 256):
        check_stored(normal(3, 70, inputs), weight_format, gated)


def check_stored(plain: Tensor, weight_format: WeightFormat, gated: bool) -> None:
    weight = ops_of(ISAS[0]).new_weight((70, plain.shape[1]), weight_format, gated)
    assert isinstance(weight, PackedWeight)
    for first, last in ((33, 70), (0, 1), (1, 33)):
        store(weight, first, plain[first:last])
    kept = unpacked(weight)
    if weight_format in ("int8", "int4"):
        plain = rotated(plain) * weight_factor(plain.shape[1])
    match weight_format:
        case "float32":
            assert torch.equal(kept, plain)
        case "bfloat16":
            assert torch.equal(kept, plain.bfloat16().float())
        case "float16":
            assert torch.equal(kept, plain.half().float())
        case "int8":
            # Four inputs have at most 255 steps together, so a step may be wider than a 127th of the largest.
            assert ((kept - plain).abs() <= 0.51 * int8_step(plain)).all()
        case "int4":
            groups = functional.pad(plain, (0, -plain.shape[1] % 32)).view(70, -1, 32)
            step = (groups.amax(-1) - groups.amin(-1)) / 15
            rms = (kept - plain).square().mean().sqrt() / step.square().mean().sqrt()
            assert rms < 0.3  # even rounding gives 1 / sqrt(12) = 0.289


def int8_step(plain: Tensor) -> Tensor:
    """The largest of a row in 127 steps; inputs 0, 1, 4, 5 and 2, 3, 6, 7 of every eight in 253.9 together."""
    eights = functional.pad(plain, (0, -plain.shape[1] % 8)).view(len(plain), -1, 2, 2, 2).abs()
    fours = eights.sum((-1, -3))
    return torch.maximum(plain.abs().amax(1) / 127, fours.amax((1, 2)) / 253.9)[:, None]


@pytest.mark.parametrize("weight_format", NUMBERS)
@pytest.mark.parametrize("isa", ISAS)
def test_the_embedding_is_a_row_of_the_table(weight_format: WeightFormat, isa: str) -> None:
    """int8 and int4 tables, which linears may share, are rotated back."""
    ops, ids = ops_of(isa), torch.tensor([49, 0, 16, 15, 7, 8, 16])
    for inputs in (45, 40, 48, 96, 384):
        plain = normal(4, 50, inputs)
        table = packed(ops, plain, weight_format)
        kept, found = unpacked(table)[ids], ops.embed(ids, table, 1.0)
        if weight_format in ("int8", "int4"):
            kept = rotated(kept) * activation_factor(inputs)
        assert torch.equal(found, kept)
        assert torch.equal(ops.embed(ids, table, 1.3), kept * 1.3)
        assert (found - plain[ids]).square().mean().sqrt() < (0.1 if weight_format == "int4" else 0.02)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64, 128])
def test_the_rotation_is_the_hadamard_matrix(size: int) -> None:
    inputs = 3 * size
    assert block_of(inputs) == size and block_of(4 * 128) == 128
    assert torch.equal(rotated(torch.eye(inputs)), torch.block_diag(*[hadamard(size)] * 3))
    assert activation_factor(inputs) * weight_factor(inputs) * size == 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("weight_format", "limit"), [("int8", 0.02), ("int4", 0.1)])
def test_large_inputs_cost_others_little(weight_format: WeightFormat, limit: float, isa: str) -> None:
    """Two inputs of each token are 60 times as large as the others, as in real models: without the rotation all others
    of a token are less than two steps of its scale, and half of the sum that they make is lost."""
    ops, x, plain = ops_of(isa), normal(17, 20, 640), normal(18, 50, 640)
    plain[:, [5, 300]] = 0
    exact = x @ plain.T
    x[:, [5, 300]] *= 60
    y = ops.linear(x, packed(ops, plain, weight_format), None, None)
    assert (y - exact).norm() < limit * exact.norm() * 3


@settings(max_examples=60)
@given(
    st.sampled_from(["rms_norm", "layer_norm"]),
    st.integers(0, 40),
    st.one_of(st.integers(1, 100), st.sampled_from([255, 1023])),
    st.sampled_from(ISAS),
    st.sampled_from(THREADS),
    st.booleans(),
)
def test_norms_of_any_size(name: str, rows: int, size: int, isa: str, num_threads: int, has_residual: bool) -> None:
    x, weight, bias = normal(rows, rows, size), normal(1, size), normal(2, size)
    residual = 3 * normal(3, rows, size) if has_residual else None
    rest = (weight, 1e-5) if name == "rms_norm" else (weight, bias, 1e-5)
    normed, total = getattr(ops_of(isa, num_threads), name)(x, residual, *rest)
    wanted, sums = getattr(reference.OPS, name)(x, residual, *rest)
    assert torch.equal(total, sums)
    torch.testing.assert_close(normed, wanted, rtol=1e-4, atol=1e-4)


# The same bits for a row alone and in any company, on any number of threads, with any instruction set.

ROWS = 103
Compute = Callable[[Ops, Tensor], Tensor]


def linear_of(weight_format: WeightFormat, gated: bool) -> Compute:
    bias = normal(6, 100)

    def compute(ops: Ops, x: Tensor) -> Tensor:
        return ops.linear(x, packed(ops, normal(5, 100, 300), weight_format, gated), bias, "silu" if gated else "gelu")

    return compute


def part_of(weight_format: WeightFormat) -> Compute:
    """The last of whose inputs are 300, of 364."""

    def compute(ops: Ops, x: Tensor) -> Tensor:
        weight = ops.new_weight((33, 300), weight_format, False, Part(64, 364))
        store(weight, 0, normal(5, 33, 364))
        return ops.linear(x, weight, None, None)

    return compute


def rotated_of(weight_format: WeightFormat, inputs: int) -> Compute:
    """Blocks of several sizes."""

    def compute(ops: Ops, x: Tensor) -> Tensor:
        wide = torch.cat((x, 2 * x[:, : inputs - 300]), 1)
        return ops.linear(wide, packed(ops, normal(5, 33, inputs), weight_format), None, None)

    return compute


def embed_of(inputs: int) -> Compute:
    return lambda ops, x: ops.embed((100 * x[:, 0].abs()).long(), packed(ops, normal(13, 600, inputs), "int8"), 1.3)


BY_ROW: dict[str, Compute] = {
    **{f"linear-{name}": linear_of(name, False) for name in NUMBERS},
    **{f"gated-{name}": linear_of(name, True) for name in NUMBERS},
    **{f"linear-part-{name}": part_of(name) for name in ("int8", "int4")},
    **{f"linear-{name}-{size}": rotated_of(name, size) for name in ("int8", "int4") for size in (384, 320, 304, 302)},
    **{f"embed-{size}": embed_of(size) for size in (384, 312)},
    "gelu_tanh": lambda ops, x: ops.linear(x, packed(ops, normal(7, 33, 300), "float32"), None, "gelu_tanh"),
    "rms_norm": lambda ops, x: torch.cat(ops.rms_norm(x, x.flip(1).contiguous(), normal(8, 300), 1e-6)[:2], 1),
    "layer_norm": lambda ops, x: ops.layer_norm(x, None, normal(8, 300), normal(9, 300), 1e-6)[0],
    "head_norm": lambda ops, x: ops.head_norm(
        x.view(-1, 15, 20).clone(), 8, 4, normal(10, 20), normal(11, 20), 1e-6
    ).flatten(1),
    "all_heads_norm": lambda ops, x: ops.head_norm(
        x.view(-1, 15, 20).clone(), 8, 4, normal(10, 160), normal(11, 80), 1e-6
    ).flatten(1),
    "add": lambda ops, x: ops.add(x, x.flip(1).contiguous()),
    "softcap": lambda ops, x: ops.softcap(x.clone(), 1.5),
    "add_gated": lambda ops, x: ops.add_gated(x, x.flip(1).contiguous(), x[:, :1].contiguous()),
    "scale_queries": lambda ops, x: ops.scale_queries(x.view(-1, 15, 20)[:, :8], x[:, :1].contiguous()).flatten(1),
    "angles": lambda ops, x: torch.cat(ops.angles((1e3 * x[:, 0].abs()).long(), normal(12, 33).abs(), 1.3), 1),
    "embed": lambda ops, x: ops.embed((100 * x[:, 0].abs()).long(), packed(ops, normal(13, 600, 30), "int4"), 1.3),
}


@pytest.mark.parametrize("name", BY_ROW)
def test_a_row_has_the_same_bits_in_any_company(name: str) -> None:
    compute, x = BY_ROW[name], normal(14, ROWS, 300)
    expected = compute(ops_of(ISAS[0]), x)
    for isa in ISAS:
        for num_threads in THREADS:
            ops = ops_of(isa, num_threads)
            assert torch.equal(compute(ops, x), expected)
            for first, count in ((0, 1), (50, 1), (17, 2), (3, 3), (60, 5), (8, 13), (1, 96), (5, 98)):
                assert torch.equal(compute(ops, x[first : first + count].clone()), expected[first : first + count])
            order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(num_threads))[:31]
            assert torch.equal(compute(ops, x[order].contiguous()), expected[order])


# What is not a number stays in its row, and is seen there.

SEES_EVERYTHING = [name for name in BY_ROW if not name.startswith(("angles", "embed"))]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", SEES_EVERYTHING)
def test_what_is_not_a_number_stays_in_its_row(name: str, poison: float) -> None:
    compute, x = BY_ROW[name], normal(15, 29, 300)
    spoilt = x.clone()
    spoilt[7, 11] = poison
    for isa in ISAS:
        clean, found = compute(ops_of(isa, 2), x), compute(ops_of(isa, 2), spoilt)
        assert clean.isfinite().all()
        if name == "softcap" and abs(poison) == torch.inf:  # it bounds it
            assert found[7, 11].abs() == 1.5
        else:
            assert not found[7].isfinite().all()
        if name.startswith(("linear", "gated", "layer_norm", "gelu")):
            assert not found[7].isfinite().any()
        others = torch.arange(29) != 7
        assert torch.equal(found[others], clean[others])


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_weights_that_are_not_finite_are_refused(weight_format: WeightFormat) -> None:
    weight = ops_of(ISAS[0]).new_weight((4, 40), weight_format, False)
    with pytest.raises(ModelError, match="not finite"):
        store(weight, 0, torch.full((4, 40), torch.inf))


# No rows, and wrong inputs.


@pytest.mark.parametrize("name", BY_ROW)
@pytest.mark.parametrize("isa", ISAS)
def test_no_rows_give_no_rows(name: str, isa: str) -> None:
    full = BY_ROW[name](ops_of(isa), normal(16, 2, 300))
    assert BY_ROW[name](ops_of(isa), torch.empty(0, 300)).shape == (0, *full.shape[1:])


X, VECTOR, IDS = torch.zeros(4, 48), torch.zeros(48), torch.zeros(4, dtype=torch.int64)
WRONG: dict[str, Callable[[Ops], Any]] = {
    "linear: type": lambda ops: ops.linear(X.double(), packed(ops, torch.zeros(8, 48), "int8"), None, None),
    "linear: half": lambda ops: ops.linear(X.bfloat16(), packed(ops, torch.zeros(8, 48), "int8"), None, None),
    "linear: strides": lambda ops: ops.linear(X.T, packed(ops, torch.zeros(8, 4), "float32"), None, None),
    "linear: width": lambda ops: ops.linear(X, packed(ops, torch.zeros(8, 47), "float32"), None, None),
    "linear: bias": lambda ops: ops.linear(X, packed(ops, torch.zeros(48, 48), "float32"), VECTOR.half(), None),
    "rms_norm: x": lambda ops: ops.rms_norm(X[:, ::2], None, VECTOR[:24], 1e-5),
    "rms_norm: residual": lambda ops: ops.rms_norm(X, X.double(), VECTOR, 1e-5),
    "rms_norm: weight": lambda ops: ops.rms_norm(X, None, VECTOR.bfloat16(), 1e-5),
    "layer_norm: bias": lambda ops: ops.layer_norm(X, None, VECTOR, VECTOR.double(), 1e-5),
    "head_norm: strides": lambda ops: ops.head_norm(torch.zeros(8, 4, 16).transpose(0, 1), 4, 2, VECTOR, VECTOR, 1e-5),
    "embed: ids": lambda ops: ops.embed(IDS.int(), packed(ops, torch.zeros(8, 4), "float32"), 1.0),
    "angles: positions": lambda ops: ops.angles(IDS.float(), VECTOR, 1.0),
    "angles: frequencies": lambda ops: ops.angles(IDS, VECTOR.double(), 1.0),
    "part: int8": lambda ops: ops.new_weight((8, 12), "int8", False, Part(12, 24)),
    "part: int4": lambda ops: ops.new_weight((8, 48), "int4", False, Part(0, 96)),
    "part: width": lambda ops: store(ops.new_weight((8, 8), "int8", False, Part(8, 16)), 0, torch.zeros(8, 8)),
    "store: width": lambda ops: store(packed(ops, torch.zeros(8, 4), "float32"), 0, torch.zeros(1, 5)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_kernels_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(InvariantError):
        WRONG[name](ops_of(ISAS[0]))


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="--cpu-isa sse9"):
        cpu_ops("sse9", 1)


def test_inputs_of_the_spec_are_left_alone() -> None:
    """A kernel writes to its results only; rotary and head norm, which may change qkv, get copies from the spec."""
    for name, spec in SPECS.items():
        inputs: Inputs = spec.make(torch.Generator().manual_seed(2), torch.float32)
        before = {key: value.clone() for key, value in inputs.items() if isinstance(value, Tensor)}
        spec.run(ops_of(ISAS[0], 2), inputs)
        for key, value in before.items():
            assert torch.equal(inputs[key].nan_to_num(9e9), value.nan_to_num(9e9)), (name, key)
