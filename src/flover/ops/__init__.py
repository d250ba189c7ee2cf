"""The table of operations that the decoder is written against, and the choice of who computes them.

An implementation is one `Ops` value: plain functions of arrays and numbers. `reference.py` says in plain torch what
each operation means. Nothing here knows of models, rows or requests, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from flover.ops.adapters import AdapterOps
from flover.ops.group import Alone, Group, Reduction
from flover.weight_formats import BLOCKS, ONE_SCALE, Block, WeightFormat

Array: TypeAlias = Any
"""An implementation's own arrays: numpy's on the CPU, torch's elsewhere. Others measure, slice and reshape them."""
DType = Literal["float32", "bfloat16", "float16", "int8"]
"""Types of single numbers. numpy has no bfloat16: there such numbers lie in arrays of uint16."""
HostArray: TypeAlias = npt.NDArray[Any]
"""Arrays of numpy: logits are sampled there, and plans, columns and checkpoints are made of them."""
DTYPE_BYTES: Mapping[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Part:
    """Where a weight's columns lie in a matrix whose columns ranks share: from `start` on, of `whole` in all. A single
    rank has all of them, and computes the sum over them as several do (`weight_formats.segments_of`)."""

    start: int
    whole: int


class Weight(Protocol):
    """A matrix [out, in] in an implementation's own layout. Only operations look into it."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def num_bytes(self) -> int: ...

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Fill rows first, first + 1, … from `rows` [n, in]; a weight that is a part of a wider one gets whole rows and
        keeps its columns. Raises `ModelError` for numbers that cannot be stored (int8 and int4: what is not finite)."""
        ...

    def store_blocks(self, first: int, rows: npt.NDArray[np.uint8], order: npt.NDArray[np.int32] | None = None) -> None:
        """The same for a format of `BLOCKS`, from the bytes that the rows have in a file, [n, bytes of a row]. `order`
        has the inputs as the rows have them; None: as they come. Raises `ModelError` for numbers that are not finite,
        and for rows in another order than others of the weight."""
        ...


class NewWeight(Protocol):
    """Memory for a matrix of shape [out, in]. A gated one has the gate in its first out / 2 rows. With a `part` it
    keeps these columns of a wider matrix; quantized, they are the numbers that the whole would have there."""

    def __call__(
        self, shape: tuple[int, int], weight_format: WeightFormat, gated: bool, part: Part | None = None
    ) -> Weight: ...


@dataclass(frozen=True, slots=True)
class Pages:
    """Keys and values of one layer, of type `dtype`, shaped as the implementation wants them (`Ops.page_shapes`).

    int8 pages have scales, float32 [num_pages, num_kv_heads, page_size]; others have None.
    """

    keys: Array
    values: Array
    page_size: int
    dtype: DType
    key_scales: Array | None = None
    value_scales: Array | None = None


class RaggedBatch(Protocol):
    """What a captured forward reads of a batch: T tokens of R rows; contiguous, ids int64, the rest of rows int32."""

    @property
    def token_ids(self) -> Array: ...
    @property
    def positions(self) -> Array: ...
    @property
    def slots(self) -> Array: ...
    @property
    def adapters(self) -> Array | None: ...
    @property
    def query_starts(self) -> Array: ...
    @property
    def context_lens(self) -> Array: ...
    @property
    def page_table(self) -> Array: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_rows(self) -> int: ...


class PlanAttention(Protocol):
    """Once per forward: what `attention` needs of the batch in every layer. The result is the implementation's own.

    `page_table` int32 [R, P]; `query_starts` int32 [R + 1] and `context_lens` int32 [R] of the R rows, and the
    lengths once more on the host; `pages` is one layer's (all layers are alike); `windows` are the different sliding
    windows of the model's layers, None among them for layers that see everything. A plan is for one forward: it may
    hold work space.
    """

    def __call__(
        self,
        page_table: Array,
        query_starts: Array,
        context_lens: Array,
        query_lens_host: Sequence[int],
        context_lens_host: Sequence[int],
        pages: Pages,
        windows: frozenset[int | None],
    ) -> Any: ...


class RotaryWrite(Protocol):
    """Turn queries and keys by their positions and write keys and values to the pages; returns the queries.

    `qkv` [T, num_heads + 2 num_kv_heads, d] may be changed; `cos`, `sin` float32 [T, dim/2] turn the first dim
    dimensions of a head (None: nothing turns); `slots` int64 [T] = page * page_size + offset. With
    `query_norm` and `key_norm` [d] every query and key gets an RMS norm of these weights after it has turned.
    """

    def __call__(
        self,
        qkv: Array,
        num_heads: int,
        cos: Array | None,
        sin: Array | None,
        interleaved: bool,
        pages: Pages,
        slots: Array,
        query_norm: Array | None = None,
        key_norm: Array | None = None,
        eps: float = 0.0,
    ) -> Array: ...


class Columns(Protocol):
    """Columns of rows by name."""

    def __getitem__(self, name: str, /) -> Any: ...


class Attention(Protocol):
    """Scaled dot-product attention: queries [T, h, d] -> [T, h * d].

    Token t of a row sees the keys of its row at positions max(0, p - window + 1) to p, p being its own. Before the
    softmax a score s = scale * query · key becomes softcap * tanh(s / softcap) (Gemma 2; 0: it stays), and then slope *
    (position of the key - p) is added to it, by `slopes` float32 [h] (ALiBi, arXiv:2108.12409). `sinks` float32 [h] are
    the scores of one more key of each head, which every token sees and whose value is zero (gpt-oss).
    """

    def __call__(
        self,
        queries: Array,
        pages: Pages,
        plan: Any,
        scale: float,
        window: int | None,
        softcap: float = 0.0,
        slopes: Array | None = None,
        sinks: Array | None = None,
    ) -> Array: ...


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """The parameters by which R rows sample; one entry per row. `top_k` below 1, `top_p` 1 and `min_p` 0 leave all
    tokens."""

    temperature: Array = field(metadata={"dtype": np.float32})
    min_p: Array = field(metadata={"dtype": np.float64})
    top_k: Array = field(metadata={"dtype": np.int64})
    top_p: Array = field(metadata={"dtype": np.float64})


@dataclass(frozen=True, slots=True)
class SampleParams(SampleColumns):
    """How R rows sample."""

    uniform: HostArray = field(metadata={"dtype": np.float64})  # the rows' random numbers, in (0, 1)

    @classmethod
    def of(cls, columns: Columns, uniform: HostArray) -> SampleParams:
        """The parameters of rows from their columns, which have the same names."""
        return cls(**{name: columns[name] for name in SAMPLE_COLUMNS}, uniform=uniform)


SAMPLE_COLUMNS = tuple(item.name for item in fields(SampleColumns))
SAMPLE_DTYPES: Mapping[str, Any] = {item.name: item.metadata["dtype"] for item in fields(SampleParams)}


@dataclass(frozen=True, slots=True)
class Routing:
    """How a token chooses experts: the `top_k` with the largest scores, the first of equal ones. Their weights are the
    softmax over these scores if `normalized`, else over the scores of all experts."""

    top_k: int
    normalized: bool


@dataclass(frozen=True, slots=True)
class Experts:
    """The matrices of E experts, `up` [2 I, H] gated and `down` [H, I] of each; and a bias of each, [2 I] and [H], if
    there are any."""

    up: Sequence[Weight]
    down: Sequence[Weight]
    up_bias: Sequence[Array] = ()
    down_bias: Sequence[Array] = ()


class Capture(Protocol):
    """Record what `compute` does on the batch `example` of one token, and run all of it at once on other batches; or
    (`captures_one_shape`) on any `example`, and on what its arrays hold by then. `constants` are the tensors besides
    weights and pages that it reads. The result of a run is valid until the next."""

    def __call__(
        self, compute: Callable[[], Array], example: RaggedBatch, constants: Sequence[Array]
    ) -> Callable[[RaggedBatch], Array]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ops:
    """One implementation. T tokens, H the hidden size, d the size of a head.

    Norms take (x, residual, …): they add the residual first if there is one, and return the normed sum and the sum
    itself, which is the next residual. Results have x's dtype; sums and roots are taken in float32.
    """

    name: str
    array: Callable[[HostArray], Array]
    """an array of the host, such as a norm's weights, as the implementation's own"""
    page_shapes: Callable[[int, int, int, int], tuple[tuple[int, ...], tuple[int, ...]]]
    """(num_pages, page_size, num_kv_heads, d) -> shapes of a layer's key pages and value pages, page first"""
    new_weight: NewWeight
    embed: Callable[[Array, Weight, float], Array]
    """(ids int64 [T], table [V, H], factor) -> factor * rows of the table [T, H]"""
    rms_norm: Callable[[Array, Array | None, Array, float], tuple[Array, Array]]
    """(x [T, H], residual [T, H] or None, weight [H], eps) -> (normed, sum)"""
    layer_norm: Callable[[Array, Array | None, Array, Array, float], tuple[Array, Array]]
    """(x [T, H], residual [T, H] or None, weight [H], bias [H], eps) -> (normed, sum)"""
    head_norm: Callable[[Array, int, int, Array, Array, float], Array]
    """(qkv [T, h + 2 k, d], h, k, query weight, key weight, eps) -> qkv after an RMS norm of queries and keys: of each
    head by itself where a weight has d numbers, of all heads at once where it has h * d or k * d; may change qkv"""
    linear: Callable[[Array, Weight, Array | None, str | None], Array]
    """(x [T, I], weight [O, I], bias [O] or None, kind) -> [T, O] after the activation of that kind (silu, gelu,
    gelu_tanh, relu, relu2, quick_gelu; None: as it is); a gated weight gives kind(gate) * up [T, O / 2], or swiglu_oai:
    (min(max(up, -7), 7) + 1) * quick_gelu(min(gate, 7)). With a part of a wider weight, x is that part of wider rows
    and the kind None: all ranks join in, and each gets what the whole weight gives"""
    experts: Callable[[Array, Array, Experts, Routing, str], Array]
    """(x [T, H], the router's scores [T, E], experts, routing, kind) -> [T, H]: what a token's experts give it, with
    weights, added in the order of their scores (Shazeer et al., arXiv:1701.06538). With parts of wider `down` weights
    all ranks join in, and each gets what the whole gives"""
    add_gated: Callable[[Array, Array, Array], Array]
    """(x [T, H], y [T, H], gate [T, 1]) -> x + sigmoid(gate) * y"""
    angles: Callable[[Array, Array, float], tuple[Array, Array]]
    """(positions int64 [T], frequencies float32 [n], factor) -> (factor * cos, factor * sin) of the angles [T, n]"""
    rotary_write: RotaryWrite
    scale_queries: Callable[[Array, Array], Array]
    """(queries [T, h, d] of `rotary_write`, gate [T, 1]) -> (1 + sigmoid(gate)) * queries"""
    plan_attention: PlanAttention
    attention: Attention
    add: Callable[[Array, Array], Array]
    """(x [T, H], y [T, H]) -> x + y"""
    softcap: Callable[[Array, float], Array]
    """(x [T, H], cap) -> cap * tanh(x / cap), in the place of x"""
    argmax: Callable[[HostArray, HostArray | None], tuple[HostArray, HostArray]]
    """(logits float32 [S, V], masks as `order.argmax` has them) -> (largest of each row, first id that has it int64)"""
    logsumexp: Callable[[HostArray], HostArray]
    """(logits float32 [R, V]) -> logarithm of the sum of exponentials of each row, float64 [R]"""
    sample: Callable[[HostArray, HostArray, SampleParams], HostArray]
    """(logits float32 [R, V], their largest [R], params) -> a random token of each row, int64 [R]"""
    kernel_seconds: Callable[[], float] = lambda: 0.0
    """time spent in kernels since the start; 0 where it is not counted"""
    group: Group = field(default_factory=Alone)
    """who else computes this model"""
    all_reduce: Callable[[Array], Array] = lambda x: x
    """(x [T, H]) -> the sum over all ranks, in the place of x"""
    join: Callable[[Sequence[Weight]], Weight] | None = None
    """(weights of the same inputs) -> one with all their outputs, each in its own format; with `BLOCKS` only"""
    prepare: Callable[[Ops, Weight], Ops] | None = None  # a table that gives what products with that weight take
    adapters: AdapterOps | None = None  # for implementations that compute them
    capture: Capture | None = None  # for implementations that can run a whole forward at once
    captures_one_shape: bool = False  # on the arrays of its example alone, and not on any batch


__all__ = [
    "BLOCKS",
    "DTYPE_BYTES",
    "ONE_SCALE",
    "Alone",
    "Array",
    "Block",
    "DType",
    "Experts",
    "Group",
    "HostArray",
    "NewWeight",
    "Ops",
    "Pages",
    "Part",
    "RaggedBatch",
    "Reduction",
    "Routing",
    "SampleParams",
    "Weight",
    "WeightFormat",
]
