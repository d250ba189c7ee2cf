"""How a model is cut for tensor parallel: which rows and columns of every weight one rank keeps. Arithmetic only.

Attention heads and the feed-forward block's inner width are dealt out evenly: the linears that make them are cut by
rows, those that read them by columns, and what the latter give is summed over the ranks (Shoeybi et al., Megatron-LM,
arXiv:1909.08053), as a tree that is the same for one rank and for several (docs/distributed.md). With fewer key/value
heads than ranks, ranks share a head. Embedding and output projection are cut by tokens of the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from flover.errors import ConfigError
from flover.model.config import ExpertsConfig, ModelConfig
from flover.ops import Part, WeightFormat
from flover.weight_formats import inputs_together


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `start` to `stop` of the whole weight are rows `at`, `at` + 1, … of a rank's."""

    start: int
    stop: int
    at: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What of a weight a rank keeps: these rows, and of them a part of the columns (None: all). No rows: it stays
    zero."""

    rows: tuple[Span, ...]
    part: Part | None = None

    def pieces(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Of rows first, first + 1, … the kept ones: (place among the `count`, how many, row of the rank's weight)."""
        for span in self.rows:
            start, stop = max(span.start, first), min(span.stop, first + count)
            if start < stop:
                yield start - first, stop - start, span.at + start - span.start


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's share of a model."""

    rank: int = 0
    size: int = 1

    def config(self, whole: ModelConfig, weight_format: WeightFormat) -> ModelConfig:
        """The model as this rank computes it. Its vocabulary is its own tokens and one more, whose embedding is zero:
        the other ranks'. Raises `ConfigError` for what cannot be cut evenly, or not between numbers that the format of
        the weights quantizes together."""
        if self.size == 1:
            return whole
        self._check(whole, weight_format)
        return dataclasses.replace(
            whole,
            num_heads=whole.num_heads // self.size,
            num_kv_heads=max(1, whole.num_kv_heads // self.size),
            intermediate_size=whole.intermediate_size // self.size,
            layers=tuple(
                dataclasses.replace(layer, experts=layer.experts and self._experts(layer.experts))
                for layer in whole.layers
            ),
            vocab_size=self.tokens_each(whole.vocab_size) + 1,
            alibi_slopes=whole.alibi_slopes[self._own(len(whole.alibi_slopes))],
        )

    def _experts(self, whole: ExpertsConfig) -> ExpertsConfig:
        """Every rank has a part of every expert."""
        return dataclasses.replace(
            whole,
            intermediate_size=whole.intermediate_size // self.size,
            shared_intermediate_size=whole.shared_intermediate_size // self.size,
        )

    def _check(self, whole: ModelConfig, weight_format: WeightFormat) -> None:
        size = f"--tensor-parallel-size {self.size}"
        widths = inner_widths(whole)
        for what, count in (("attention heads", whole.num_heads), *widths):
            if count % self.size:
                raise ConfigError(f"{size} does not divide the model's {what}: {count}")
        heads = whole.num_kv_heads
        if heads % self.size and self.size % heads:
            raise ConfigError(f"{size} and the model's {heads} key/value heads: neither divides the other")
        if whole.qk_norm == "all_heads":
            raise ConfigError(
                f"{size}: the norm of this model's queries and keys is over all heads, which ranks divide"
            )
        for what, count in (("attention output", whole.query_size), *widths):
            together = inputs_together(weight_format, count)
            if count // self.size % together:
                raise ConfigError(
                    f"{size} cuts the model's {what} of {count} into parts of {count // self.size}, but "
                    f"{weight_format} weights keep {together} numbers together"
                )

    def tokens_each(self, vocab_size: int) -> int:
        """Tokens of the vocabulary that every rank but the last owns."""
        return -(-vocab_size // self.size)

    def tokens(self, vocab_size: int) -> tuple[int, int]:
        """First and last + 1 of the tokens that this rank owns."""
        each = self.tokens_each(vocab_size)
        return min(self.rank * each, vocab_size), min((self.rank + 1) * each, vocab_size)

    def cut(self, name: str, shape: tuple[int, ...], whole: ModelConfig) -> Cut:
        """What this rank keeps of the weight `name` of this shape (`parameter_shapes`)."""
        everything = Span(0, shape[0], 0)
        module, _, kind = name.rpartition(".")
        last = module.split(".")[-1]
        if last in ("out", "down") and kind == "weight":
            return Cut((everything,), Part(self.rank * (shape[1] // self.size), shape[1]))
        if self.size == 1:
            return Cut((everything,))
        match last:
            case "qkv":
                return Cut(self._heads(whole))
            case "sinks":
                heads = self._own(shape[0])
                return Cut((Span(heads.start, heads.stop, 0),))
            case "up":
                return Cut(self._inner(shape[0], 2 if whole.gated else 1))
            case "embed" | "head":
                return Cut((Span(*self.tokens(whole.vocab_size), 0),))
            case _:
                return Cut((everything,))

    def _own(self, count: int) -> slice:
        """This rank's of `count` things that are dealt out evenly."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def _heads(self, whole: ModelConfig) -> tuple[Span, ...]:
        queries = whole.query_size // self.size
        shared = max(1, self.size // whole.num_kv_heads)  # ranks of one key/value head
        keys = max(1, whole.num_kv_heads // self.size) * whole.head_dim
        key = self.rank // shared * keys
        first, second = whole.query_size, whole.query_size + whole.kv_size
        return (
            Span(self.rank * queries, (self.rank + 1) * queries, 0),
            Span(first + key, first + key + keys, queries),
            Span(second + key, second + key + keys, queries + keys),
        )

    def _inner(self, num_rows: int, halves: int) -> tuple[Span, ...]:
        width = num_rows // halves
        own = width // self.size
        starts = ((half, half * width + self.rank * own) for half in range(halves))
        return tuple(Span(start, start + own, half * own) for half, start in starts)


def inner_widths(config: ModelConfig) -> list[tuple[str, int]]:
    """What the feed-forward blocks of the model's layers are called, and how wide they are inside."""
    experts = config.experts
    found = [] if all(layer.experts for layer in config.layers) else [("inner width", config.intermediate_size)]
    if experts is not None:
        found.append(("experts' inner width", experts.intermediate_size))
        if experts.shared_intermediate_size:
            found.append(("shared expert's inner width", experts.shared_intermediate_size))
    return found


WHOLE = Shard()
