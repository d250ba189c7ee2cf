"""transformers' continuous batching (`generate_batch`) on the same requests, where it is installed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch

from flover.bench.machine import package_version
from flover.bench.workload import TOKEN_IDS, Job, fixed, fixed_arrivals, random_jobs
from flover.errors import EngineError
from flover_benchmarks.gpu.device import INTERPRETER, gpu_of, wait_for
from flover_benchmarks.gpu.model import on_device
from flover_benchmarks.gpu.paper import Emit, EngineRunner, Skip
from flover_benchmarks.gpu.parts import SHAPES, PartSpec, Sizes
from flover_benchmarks.paper.bench import FUSION


def compare(spec: PartSpec, left: Callable[[], float], emit: Emit, skip: Skip) -> None:
    """Output tokens per second of requests that come all at once, ours first."""
    sizes, longest = spec.sizes, 2 * spec.sizes.output_len + 1
    with on_device(spec.model, spec.device, max_num_seqs=max(sizes.batches), max_model_len=longest) as model:
        runner = EngineRunner(model)
        for count in sizes.batches:
            runner.run(burst(sizes, count), FUSION)
            outcome = runner.run(burst(sizes, count), FUSION)
            emit(
                engine="flover", requests=count, seconds=outcome.seconds, tokens_per_s=outcome.tokens / outcome.seconds
            )
    if importlib.util.find_spec("transformers") is None:
        skip("transformers is not installed")
        return
    device = gpu_of(spec.device).device
    if device.type == "cuda":
        torch.cuda.empty_cache()
    theirs = _model(spec.model, device)
    for count in sizes.batches:
        if left() <= 0:
            skip(f"transformers, {count} requests: no time was left")
            continue
        _generate(theirs, burst(sizes, count), device)
        seconds = _generate(theirs, burst(sizes, count), device)
        tokens = count * sizes.output_len
        emit(engine="transformers", requests=count, seconds=seconds, tokens_per_s=tokens / seconds)
    emit(transformers=package_version("transformers"))


def burst(sizes: Sizes, count: int) -> list[Job]:
    """Requests at once, prompts as long as outputs."""
    lengths = fixed(sizes.output_len)
    return random_jobs(count, fixed_arrivals(count, 0.0), lengths, lengths, TOKEN_IDS)


def _model(name: str, device: torch.device) -> Any:
    import transformers

    kinds: Any = transformers

    document = dict(SHAPES[name])
    kind = getattr(torch, document.pop("torch_dtype"))
    document |= {"bos_token_id": None, "eos_token_id": None}
    with device:
        model = kinds.AutoModelForCausalLM.from_config(
            kinds.AutoConfig.for_model(**document), dtype=kind, attn_implementation="sdpa"
        )
    return model.eval()


def _generate(model: Any, jobs: list[Job], device: torch.device) -> float:
    """Seconds of all requests. Raises `EngineError` where one has another number of tokens."""
    import transformers

    kinds: Any = transformers
    chosen = kinds.GenerationConfig(max_new_tokens=jobs[0].output_len, do_sample=False, eos_token_id=-1, pad_token_id=0)
    small = {"num_blocks": 16, "max_batch_tokens": 64} if device.type == INTERPRETER else {}
    start = time.perf_counter()
    found = model.generate_batch(
        inputs=[list(job.prompt_ids) for job in jobs],
        generation_config=chosen,
        continuous_batching_config=kinds.ContinuousBatchingConfig(**small),
    )
    wait_for(device)
    seconds = time.perf_counter() - start
    short = [key for key, one in found.items() if one.error or len(one.generated_tokens) != jobs[0].output_len]
    if short or len(found) != len(jobs):
        errors = {str(found[key].error) for key in short}
        raise EngineError(f"transformers ended {len(short)} of {len(jobs)} requests early: {'; '.join(errors)}")
    return seconds
