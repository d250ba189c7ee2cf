"""Models of random weights, made on the device at real shapes without a checkpoint, and engines around them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch

from flover.config import EngineConfig
from flover.engine.executor import Executor
from flover.engine.loop import Engine
from flover.engine.plan import StepPlan, StepResult
from flover.errors import EngineDeadError
from flover.executor.background import overlapping
from flover.executor.cuda import CudaCache, CudaPlatform
from flover.executor.detect import resolve_device
from flover.executor.load import load_device
from flover.memory.kvcache import KVShape, PageCache
from flover.model.batch import Batch
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.decoder import Decoder, Weights
from flover.model.describe import Description
from flover.model.folds import constant_norms
from flover.model.formats import is_gated
from flover.model.load import DUMMY_STD, LoadedModel
from flover.observe.wrapped import WrappedExecutor
from flover.ops import Array, DType, Ops, WeightFormat
from flover.ops.cuda.weight import CudaWeight
from flover.service.build import scheduler_config
from flover_benchmarks.gpu.device import gpu_of
from flover_benchmarks.gpu.parts import SHAPES

SEED = 1


class DecoderOfSteps(Decoder):
    """A decoder that computes steps of one token in every row, and nothing where there is a prompt among them: so
    long contexts cost no time before what is measured."""

    def forward(self, batch: Batch, kv: PageCache) -> Array:
        """As the decoder's; zeros for a batch with a prompt."""
        if batch.num_tokens == batch.num_rows:
            return super().forward(batch, kv)
        embedding = cast(CudaWeight, self.weights.matrices["embed.weight"]).data
        return embedding.new_zeros((batch.num_tokens, self.config.hidden_size))


class FailingAloud(WrappedExecutor):
    """An error of the device ends the engine, which would otherwise compute everything again."""

    def start(self, plan: StepPlan) -> None:
        """As the executor's. Raises `EngineDeadError`."""
        with _aloud():
            super().start(plan)

    def finish(self) -> StepResult:
        """Likewise."""
        with _aloud():
            return super().finish()


@contextmanager
def _aloud() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EngineDeadError(f"{type(error).__name__}: {error}") from error


class FilledPages(CudaPlatform):
    """The platform with random numbers in all pages."""

    def new_cache(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, ops: Ops) -> CudaCache:
        """As the platform's."""
        cache = super().new_cache(shape, num_pages, page_size, dtype, ops)
        for pages in cache.layers:
            pages.keys.normal_()
            pages.values.normal_()
        return cache


def random_weights(config: ModelConfig, ops: Ops, kept: Callable[[str], WeightFormat], seed: int) -> Weights:
    """Normal matrices, norms of one, biases of zero; `kept` says the format of a matrix."""
    matrices, vectors = {}, dict[str, Array]()
    generator: torch.Generator | None = None
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            vectors[name] = np.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=np.float32)
            continue
        weight = ops.new_weight((shape[0], shape[1]), kept(name), is_gated(name, config))
        data = cast(CudaWeight, weight).data
        generator = generator or torch.Generator(data.device).manual_seed(seed)
        matrices[name] = weight
        data.normal_(0.0, DUMMY_STD, generator=generator)
    vectors |= constant_norms(config)
    return Weights(matrices, {name: ops.array(vector) for name, vector in vectors.items()})


def random_model(
    kind: type[Decoder], model: Description, ops: Ops, progress: Callable[[int, int], None]
) -> LoadedModel:
    """In the place of what `model/load.py` reads: a decoder of this kind."""
    weights = random_weights(model.own, ops, lambda name: model.formats[name][0].format, SEED)
    decoder = kind(model.own, weights, ops, model.max_len)
    return LoadedModel(decoder=decoder, description=model, name=model.settings.model)


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A model on the device: `executor` carries out plans, `settings` are resolved."""

    decoder: Decoder
    settings: EngineConfig
    executor: Executor
    device: torch.device

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        return self.decoder.config

    def engine(self, clock: Callable[[], float] = time.perf_counter, **settings: Any) -> Engine:
        """A new engine with other settings of the scheduler, on forgotten rows."""
        self.executor.reset()
        changed = dataclasses.replace(self.settings, **settings)
        return Engine(self.executor, scheduler_config(changed, self.executor.facts), clock)


@contextmanager
def on_device(model: str, device: str, *, computes_prompts: bool = True, **settings: Any) -> Iterator[OnDevice]:
    """The model of this name in `SHAPES`. Raises `ConfigError` and `ModelError` where it does not fit."""
    gpu = gpu_of(device)
    with TemporaryDirectory(prefix="flover-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPES[model]))
        asked = EngineConfig(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            device="cuda",
            enable_prefix_caching=False,
            target_itl_ms=0.0,
            **settings,
        )
        resolved = resolve_device(asked)
        platform = CudaPlatform(resolved, gpu) if computes_prompts else FilledPages(resolved, gpu)
        kind, loaded = (Decoder if computes_prompts else DecoderOfSteps), list[LoadedModel]()

        def make(*args: Any) -> LoadedModel:
            loaded.append(partial(random_model, kind)(*args))
            return loaded[0]

        executor: Executor = load_device(resolved, lambda *progress: None, platform=platform, load=make)
    if resolved.async_scheduling:
        executor = overlapping(executor)
    executor = FailingAloud(executor)
    try:
        yield OnDevice(loaded[0].decoder, resolved, executor, gpu.device)
    finally:
        executor.close()
