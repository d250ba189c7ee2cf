"""The kernels of csrc/, as bindings.cpp offers them. Arrays are addresses; see csrc/kernels.h."""

def instruction_sets() -> list[str]: ...

class PackedWeight:
    def __init__(self, format: int, out: int, in_: int, gated: bool) -> None: ...
    def store(self, first: int, count: int, values: int, width: int, start: int) -> None: ...
    def row(self, index: int, values: int) -> None: ...
    @property
    def bytes(self) -> int: ...

class Pages:
    def __init__(
        self,
        cache: int,
        keys: int,
        values: int,
        key_scales: int,
        value_scales: int,
        page_size: int,
        heads: int,
        dim: int,
    ) -> None: ...

class Engine:
    def __init__(self, isa: str, threads: int) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    def angles(
        self, positions: int, rows: int, frequencies: int, count: int, factor: float, cos: int, sin: int
    ) -> None: ...
    def add(self, a: int, b: int, rows: int, size: int, y: int) -> None: ...
    def linear(
        self, weight: PackedWeight, x: int, rows: int, reach: int, bias: int, activation: int, y: int
    ) -> None: ...
    def reach(self, x: int, rows: int, size: int, y: int) -> None: ...
    def norm(
        self,
        x: int,
        residual: int,
        weight: int,
        bias: int,
        rows: int,
        size: int,
        eps: float,
        total: int,
        normed: int,
    ) -> None: ...
    def head_norm(
        self,
        x: int,
        rows: int,
        stride: int,
        query_heads: int,
        key_heads: int,
        dim: int,
        query_weight: int,
        key_weight: int,
        eps: float,
    ) -> None: ...
    def embed(self, weight: PackedWeight, ids: int, rows: int, y: int) -> None: ...
    def rotary(
        self,
        qkv: int,
        rows: int,
        query_heads: int,
        cos: int,
        sin: int,
        turning: int,
        interleaved: bool,
        slots: int,
        pages: Pages,
    ) -> None: ...
    def attention(
        self,
        queries: int,
        query_stride: int,
        query_heads: int,
        rows: int,
        query_starts: int,
        context_lens: int,
        page_table: int,
        table_stride: int,
        scale: float,
        window: int,
        y: int,
        pages: Pages,
    ) -> None: ...
    def largest(self, logits: int, rows: int, size: int, values: int, ids: int) -> None: ...
    def draw(
        self,
        logits: int,
        rows: int,
        size: int,
        best: int,
        temperature: int,
        min_p: int,
        top_k: int,
        top_p: int,
        uniform: int,
        ids: int,
    ) -> None: ...
    def multiply_adds(self, rounds: int) -> float: ...
    def read(self, data: int, bytes: int) -> int: ...

class Program:
    def __init__(self) -> None: ...
    def run(
        self,
        engine: Engine,
        tokens: int,
        rows: int,
        ids: int,
        positions: int,
        slots: int,
        query_starts: int,
        context_lens: int,
        page_table: int,
        table_stride: int,
        workspace: int,
    ) -> None: ...
