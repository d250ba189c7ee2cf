"""The accuracy of weight and cache formats: perplexity and KL divergence against float32 by the reference ops.

A text is scored by teacher forcing: every document by itself, each token given those before it. Weights that a file has
in blocks are float32 numbers for all formats but its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flover.config import EngineConfig
from flover.memory.kvcache import KVCache
from flover.memory.machine import available_memory
from flover.model.batch import Batch
from flover.model.decoder import Decoder
from flover.model.describe import describe_model, kv_dtype_of
from flover.model.load import LoadedModel, load_described
from flover.model.locate import locate_model
from flover.model.shard import Shard
from flover.ops import Ops, reference
from flover.ops.cpu import cpu_ops
from flover.source import ModelSource, open_source
from flover_benchmarks.kernels.torch_threads import torch_threads
from flover_benchmarks.recast import Recast, in_blocks

CHUNK = 512
"""Maximum chunk size in tokens; a token's scores do not depend on it."""

_ROWS_AT_ONCE = 128  # in double precision, to bound the memory
_PAGE_SIZE = 16
LIMITS = {"as stored": 0.005, "int8": 0.005, "int4": 0.04}
"""Limits of the growth of perplexity, by format."""

Progress = Callable[[str, int, int], None]
"""A function of (task, done, total)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Formats of weights and cache, as engine settings."""

    name: str
    dtype: str
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    blocks: str | None = None
    """The type of GGUF that the matrices are quantized to, or `STORED`."""

    @property
    def weights(self) -> tuple[str, str | None, str | None]:
        """What its weights depend on."""
        return self.dtype, self.quantization, self.blocks

    def applied(self, config: EngineConfig) -> EngineConfig:
        """`config` with these formats."""
        return dataclasses.replace(
            config, dtype=self.dtype, quantization=self.quantization, kv_cache_dtype=self.kv_cache_dtype
        )


STORED = "stored"
"""As a file has its weights."""
VARIANTS = (
    Variant("float32", "float32"),
    Variant("bfloat16", "bfloat16"),
    Variant("float16", "float16"),
    Variant("int8", "bfloat16", "int8"),
    Variant("int4", "bfloat16", "int4"),
    Variant("bfloat16, int8 cache", "bfloat16", None, "int8"),
    Variant("int8, int8 cache", "bfloat16", "int8", "int8"),
    Variant("int4, int8 cache", "bfloat16", "int4", "int8"),
    Variant("q8_0", "float32", blocks="q8_0"),
    Variant("q4_0", "float32", blocks="q4_0"),
)
STORED_VARIANTS = (
    Variant("as stored", "float32", blocks=STORED),
    Variant("as stored, bfloat16 cache", "float32", None, "bfloat16", STORED),
    Variant("as stored, int8 cache", "float32", None, "int8", STORED),
)
"""Of a file with weights in blocks."""


@dataclass(slots=True)
class Accuracy:
    """Sums over scored tokens; `add` takes the logits of both models. Divergences are in nats."""

    tokens: int = field(default=0, init=False)
    max_kl: float = field(default=0.0, init=False)
    _divergence: float = field(default=0.0, init=False)
    _agreed: int = field(default=0, init=False)
    _targets: int = field(default=0, init=False)
    _loss: float = field(default=0.0, init=False)
    _reference_loss: float = field(default=0.0, init=False)

    def add(self, logits: Tensor, expected: Tensor, targets: Tensor | None) -> None:
        """Logits [n, vocab] of the model and of the reference; `targets` int64 [n], None for random ids. Raises
        `ValueError` for shapes that do not match."""
        if logits.shape != expected.shape or (targets is not None and len(targets) != len(logits)):
            raise ValueError(f"logits {list(logits.shape)} do not fit the reference's {list(expected.shape)}")
        for first in range(0, len(logits), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            self._add(logits[rows], expected[rows], None if targets is None else targets[rows])

    def _add(self, logits: Tensor, expected: Tensor, targets: Tensor | None) -> None:
        scores, truth = logits.double().log_softmax(-1), expected.double().log_softmax(-1)
        divergence = (truth.exp() * (truth - scores)).sum(-1)
        self.tokens += len(scores)
        self._divergence += float(divergence.sum())
        worst = float(divergence.max())
        self.max_kl = worst if math.isnan(worst) else max(self.max_kl, worst)
        self._agreed += int((logits.argmax(-1) == expected.argmax(-1)).sum())
        if targets is not None:
            self._targets += len(targets)
            self._loss -= float(scores.gather(1, targets[:, None]).sum())
            self._reference_loss -= float(truth.gather(1, targets[:, None]).sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean loss; NaN without targets."""
        return math.exp(self._loss / self._targets) if self._targets else math.nan

    @property
    def change(self) -> float:
        """Growth of the perplexity over the reference's, 0.01 being 1 %; NaN without targets."""
        return math.exp((self._loss - self._reference_loss) / self._targets) - 1 if self._targets else math.nan

    @property
    def mean_kl(self) -> float:
        """Kullback-Leibler divergence of the model's next token from the reference's, mean over tokens."""
        return self._divergence / self.tokens

    @property
    def agreement(self) -> float:
        """Share of positions with the same most likely token."""
        return self._agreed / self.tokens


def score(decoder: Decoder, kv: KVCache, document: Sequence[int]) -> Tensor:
    """Logits [n, vocab] of a document of n tokens, computed in chunks; `kv` has enough pages, all of them its own."""
    parts = []
    for first in range(0, len(document), CHUNK):
        last = min(first + CHUNK, len(document))
        hidden = decoder.forward(_chunk(document, first, last, kv.page_size, decoder.ops), kv)
        logits = decoder.logits(hidden)
        assert logits is not None  # there is one rank
        parts.append(torch.as_tensor(logits))
    return torch.cat(parts)


def _chunk(document: Sequence[int], first: int, last: int, page_size: int, ops: Ops) -> Batch:
    """Tokens first..last of the only row; position p is in slot p after the null page."""
    positions = np.arange(first, last)
    num_pages = -(-last // page_size)
    return Batch(
        token_ids=ops.array(np.array(document[first:last])),
        positions=ops.array(positions),
        slots=ops.array(positions + page_size),
        query_starts=ops.array(np.array([0, last - first], dtype=np.int32)),
        context_lens=ops.array(np.array([last], dtype=np.int32)),
        page_table=ops.array(np.arange(1, num_pages + 1, dtype=np.int32)[None]),
        query_lens_host=(last - first,),
        context_lens_host=(last,),
    )


def measure_accuracy(
    config: EngineConfig,
    documents: Sequence[Sequence[int]],
    num_threads: int,
    progress: Progress,
    *,
    is_text: bool,
    variants: Sequence[Variant] = VARIANTS,
) -> dict[str, Accuracy]:
    """Every variant of a model on the same documents (token ids; each token but the first is a target if the
    documents are text). Raises what `load_model` raises."""
    with torch_threads(num_threads), torch.inference_mode():
        source = open_source(locate_model(config.model, config.revision, config.download_dir))
        scorer = _Scorer(config, source, max(map(len, documents)), progress)
        ops = cpu_ops(config.cpu_isa, num_threads)
        reference_model = scorer.load(_REFERENCE, reference.OPS)
        loaded = {variant.weights: scorer.load(variant, ops) for variant in variants}
        results = {variant.name: Accuracy() for variant in variants}
        for done, document in enumerate(documents):
            targets = torch.tensor(document[1:]) if is_text else None
            truth = scorer.score(reference_model, _REFERENCE, document)
            for variant in variants:
                progress(f"{variant.name}: score", done, len(documents))
                logits = scorer.score(loaded[variant.weights], variant, document)
                results[variant.name].add(logits[:-1], truth[:-1], targets)
    return results


_REFERENCE = Variant("reference", "float32")


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Loads a model in one format or another and scores documents of at most `most` tokens with it."""

    config: EngineConfig
    source: ModelSource
    most: int
    progress: Progress

    def load(self, variant: Variant, ops: Ops) -> LoadedModel:
        source = self.source
        if variant.blocks != STORED and (variant.blocks is not None or in_blocks(source)):
            source = Recast(source, variant.blocks)
        model = describe_model(variant.applied(self.config), Shard(0, 1), source=source)
        model.check_weights(available_memory())
        return load_described(model, ops, lambda done, total: self.progress(f"{variant.name}: load", done, total))

    def score(self, loaded: LoadedModel, variant: Variant, document: Sequence[int]) -> Tensor:
        num_pages = 1 + -(-self.most // _PAGE_SIZE)
        dtype = kv_dtype_of(variant.applied(self.config))
        kv = KVCache(loaded.config, num_pages, _PAGE_SIZE, dtype, loaded.decoder.ops.page_shapes)
        return score(loaded.decoder, kv, document)
