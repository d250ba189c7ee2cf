"""Whether this device computes what the reference computes, before anything is timed: small models of both families,
whose logits, tokens and bits are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from flover.errors import FloverError
from flover.memory.kvcache import PageCache
from flover.model.batch import Batch
from flover.model.config import ModelConfig
from flover.model.decoder import Decoder, Weights
from flover.model.hf_config import read_config
from flover.ops import DType, Ops, Pages, reference
from flover.ops.cuda.device import to_device
from flover.ops.cuda.table import cuda_ops
from flover.ops.cuda.weight import FORMATS, CudaWeight
from flover.request import GREEDY, Request, SamplingParams
from flover_benchmarks.gpu.device import INTERPRETER
from flover_benchmarks.gpu.model import OnDevice, on_device, random_weights
from flover_benchmarks.gpu.parts import TINY

TOLERANCE: dict[DType, float] = {"float32": 1e-4, "bfloat16": 4e-2}
"""Of logits, as a share of the largest: sums in another order, and in bfloat16 a rounding after each of them."""
PAGE = 16
_PROMPTS, _OUTPUT, _CONTEXTS = (5, 40, 17), 6, (300, 9, 40, 1, 257)
"""Contexts of several parts of attention, and of one."""


@dataclass(frozen=True, slots=True)
class SomePages:
    """Of every layer, as a decoder takes them."""

    layers: tuple[Pages, ...]


def check_parity(device: torch.device, name: str, emit: Callable[..., None], skip: Callable[[str], None]) -> None:
    """Emits the largest errors of a model of `TINY` in both types. Raises `FloverError` after all of it if one is too
    large."""
    _, config = read_config(TINY[name])
    wrong = []
    for dtype, tolerance in TOLERANCE.items():
        if dtype == "bfloat16" and device.type == INTERPRETER:
            skip(f"{name} in bfloat16: Triton's interpreter cuts numbers off where a GPU rounds them")
            continue
        error = logits_error(config, dtype, device)
        emit(model=name, dtype=dtype, logits_error=error, tolerance=tolerance, holds=error <= tolerance)
        wrong += [f"logits in {dtype} differ by {error:.2g}"] if not error <= tolerance else []
    same = same_alone(config, device)
    emit(model=name, same_bits_alone=same)
    wrong += [] if same else ["a row alone has other bits than among others, with batch_invariant"]
    with on_device(name, device.type, max_num_seqs=4, max_model_len=128) as loaded:
        gap = tokens_gap(loaded, config)
    emit(model=name, tokens_gap=gap, holds=gap <= TOLERANCE["float32"])
    wrong += [f"an engine's tokens are {gap:.2g} less likely than the largest"] if gap > TOLERANCE["float32"] else []
    if wrong:
        raise FloverError(f"{name}: {'; '.join(wrong)}")


def logits_error(config: ModelConfig, dtype: DType, device: torch.device) -> float:
    """The largest difference of logits to the reference in float32 on the same weights, over the largest logit: of
    single tokens and chunks in one batch, and of single tokens alone."""
    errors = []
    for query_lens in ((1, 9, 33, 1, 7), (1,) * len(_CONTEXTS)):
        batch = batch_of(query_lens, _CONTEXTS, config.vocab_size)
        pairs = decoder_pair(config, dtype, device)
        (found, own_pages), (expected, plain_pages) = ((one, one_pages) for one, one_pages in pairs)
        got = found.logits(found.forward(moved(batch, device), own_pages))
        want = expected.logits(expected.forward(moved(batch, torch.device("cpu")), plain_pages))
        got, want = (cast(torch.Tensor, one).double().cpu() for one in (got, want))
        errors.append(float((got - want).abs().max() / want.abs().max()))
    return max(errors) if all(error == error for error in errors) else float("inf")


def decoder_pair(config: ModelConfig, dtype: DType, device: torch.device) -> list[tuple[Decoder, PageCache]]:
    """The device's decoder and the reference's in float32 on the same numbers, with pages of their own."""
    ops = cuda_ops(device)
    own = Decoder(config, random_weights(config, ops, lambda name: dtype, seed=3), ops, config.default_max_len)
    pages = new_pages(config, ops, dtype, device)
    shape = reference.OPS.page_shapes(len(pages.layers[0].keys), PAGE, config.num_kv_heads, config.head_dim)[0]

    def plain(stored: Any) -> torch.Tensor:
        kept: torch.Tensor = stored.float().cpu()  # [pages, heads, page size, d]
        return (kept if kept.shape == shape else kept.transpose(1, 2)).contiguous()

    copied = SomePages(tuple(Pages(plain(one.keys), plain(one.values), PAGE, "float32") for one in pages.layers))
    return [(own, cast(PageCache, pages)), (reference_of(own), cast(PageCache, copied))]


def reference_of(decoder: Decoder) -> Decoder:
    """The same weights with the reference's operations, on the CPU in float32."""
    matrices: dict[str, Any] = {}
    for name, weight in decoder.weights.matrices.items():
        matrices[name] = reference.OPS.new_weight(weight.shape, "float32", cast(CudaWeight, weight).gated)
        matrices[name].data.copy_(cast(CudaWeight, weight).data)
    vectors: dict[str, Any] = {name: cast(torch.Tensor, v).cpu() for name, v in decoder.weights.vectors.items()}
    return Decoder(decoder.config, Weights(matrices, vectors), reference.OPS, decoder.max_len)


def new_pages(config: ModelConfig, ops: Ops, dtype: DType, device: torch.device, num_pages: int = 0) -> SomePages:
    """As many as the contexts need, with random numbers."""
    num_pages = num_pages or 1 + sum(-(-length // PAGE) for length in _CONTEXTS)
    shape = ops.page_shapes(num_pages, PAGE, config.num_kv_heads, config.head_dim)[0]
    generator = torch.Generator().manual_seed(5)

    def numbers() -> Any:
        return torch.randn(shape, generator=generator).to(device, FORMATS[dtype])

    return SomePages(tuple(Pages(numbers(), numbers(), PAGE, dtype) for _ in config.layers))


def batch_of(query_lens: tuple[int, ...], context_lens: tuple[int, ...], vocab_size: int) -> Batch:
    """Rows with pages of their own from the second on, whose last tokens are in the batch."""
    counts = [-(-length // PAGE) for length in context_lens]
    table, page = np.zeros((len(counts), max(counts)), dtype=np.int32), 1
    positions, slots = [], []
    for row, (count, query, context) in enumerate(zip(counts, query_lens, context_lens, strict=True)):
        table[row, :count] = np.arange(page, page + count)
        page += count
        own = np.arange(context - min(query, context), context)
        positions.append(own)
        slots.append(table[row, own // PAGE].astype(np.int64) * PAGE + own % PAGE)
    lens = [len(own) for own in positions]
    ids = np.random.default_rng(7).integers(0, vocab_size, sum(lens))
    return Batch(
        token_ids=ids.astype(np.int64),
        positions=np.concatenate(positions).astype(np.int64),
        slots=np.concatenate(slots),
        query_starts=np.cumsum([0, *lens]).astype(np.int32),
        context_lens=np.array(context_lens, dtype=np.int32),
        page_table=table,
        query_lens_host=tuple(lens),
        context_lens_host=context_lens,
    )


def moved(batch: Batch, device: torch.device) -> Batch:
    """With its arrays on the device."""
    names = ("token_ids", "positions", "slots", "query_starts", "context_lens", "page_table")
    arrays: dict[str, Any] = dict(to_device({name: getattr(batch, name) for name in names}, device))
    return dataclasses.replace(batch, **arrays)


def same_alone(config: ModelConfig, device: torch.device) -> bool:
    """Whether a row's hidden state has the same bits alone and among others, where products keep one order."""
    ops = cuda_ops(device, batch_invariant=True)
    decoder = Decoder(config, random_weights(config, ops, lambda name: "float32", 3), ops, config.default_max_len)
    whole = batch_of((1,) * len(_CONTEXTS), _CONTEXTS, config.vocab_size)

    def states(first: int, end: int) -> torch.Tensor:
        pages = cast(PageCache, new_pages(config, ops, "float32", device))
        rows, count = slice(first, end), end - first
        part = dataclasses.replace(
            whole,
            **{name: getattr(whole, name)[rows] for name in ("token_ids", "positions", "slots", "context_lens")},
            page_table=np.ascontiguousarray(whole.page_table[rows]),
            query_starts=np.arange(count + 1, dtype=np.int32),
            query_lens_host=(1,) * count,
            context_lens_host=_CONTEXTS[first:end],
        )
        return cast(torch.Tensor, decoder.forward(moved(part, device), pages)).cpu()

    together = states(0, len(_CONTEXTS))
    return all(torch.equal(states(row, row + 1), together[row : row + 1]) for row in range(len(_CONTEXTS)))


def tokens_gap(loaded: OnDevice, config: ModelConfig) -> float:
    """How much smaller than the largest logit, as a share of it, are the logits of the tokens that an engine chose for
    requests that came one after another: by the reference, which is given the engine's tokens."""
    engine, rng = loaded.engine(), np.random.default_rng(11)
    prompts = {str(n): rng.integers(0, config.vocab_size, length).tolist() for n, length in enumerate(_PROMPTS)}
    params = SamplingParams(max_tokens=_OUTPUT, ignore_eos=True, **GREEDY)
    outputs: dict[str, list[int]] = {name: [] for name in prompts}
    waiting = list(prompts)
    while waiting or engine.has_work:
        if waiting:
            name = waiting.pop(0)
            engine.submit(Request(id=name, prompt_ids=prompts[name], params=params, seed=0))
        for delta in engine.step():
            if delta.error is not None:
                raise FloverError(f"request {delta.request_id} ended with an error: {delta.error}")
            outputs[delta.request_id] += delta.token_ids
    plain, cpu = reference_of(loaded.decoder), torch.device("cpu")
    gaps = []
    for name, tokens in outputs.items():
        ids = prompts[name] + tokens
        batch = batch_of((len(ids),), (len(ids),), config.vocab_size)
        batch = dataclasses.replace(batch, token_ids=np.array(ids, dtype=np.int64))
        pages = new_pages(config, reference.OPS, "float32", cpu, 1 + -(-len(ids) // PAGE))
        logits = plain.logits(plain.forward(moved(batch, cpu), cast(PageCache, pages)))
        gaps.append(_gap(cast(torch.Tensor, logits), len(prompts[name]), tokens))
    return max(gaps)


def _gap(logits: torch.Tensor, prompt_len: int, tokens: list[int]) -> float:
    rows = logits[prompt_len - 1 : prompt_len - 1 + len(tokens)]
    chosen = rows[torch.arange(len(tokens)), torch.tensor(tokens)]
    return float(((rows.max(dim=1).values - chosen) / rows.abs().max()).max())
