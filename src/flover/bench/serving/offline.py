"""`bench latency` and `bench throughput`: the engine in this process, through `LLM`, without a server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flover.bench.metrics import percentile
from flover.bench.serving.datasets import COMMON_IDS, SampleRequest
from flover.bench.serving.offline_options import LatencyOptions
from flover.errors import ConfigError, EngineError
from flover.llm.llm import LLM
from flover.llm.outputs import RequestOutput
from flover.request import SamplingParams
from flover.text.prompts import Prompt

PERCENTILES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of each batch, from submission to its last token."""

    seconds: Sequence[float]
    output_tokens: int
    """Output tokens of one batch."""

    @property
    def mean(self) -> float:
        return sum(self.seconds) / len(self.seconds)

    @property
    def percentiles(self) -> dict[int, float]:
        return {q: percentile(self.seconds, q) for q in PERCENTILES}

    def result(self) -> dict[str, Any]:
        """The result under vLLM's keys, and tokens per second of the average batch."""
        return {
            "avg_latency": self.mean,
            "latencies": list(self.seconds),
            "percentiles": {str(q): value for q, value in self.percentiles.items()},
            "output_tokens_per_second": self.output_tokens / self.mean,
        }


def measure_latency(llm: LLM, options: LatencyOptions, seed: int, ended: Callable[[], None]) -> Latency:
    """Run fixed batches one after another; their prompts differ, so that none is in the prefix cache."""
    params = SamplingParams(n=options.n, ignore_eos=True, max_tokens=options.output_len)
    rng = random.Random(seed)
    seconds = []
    for _ in range(options.num_iters_warmup + options.num_iters):
        prompts: list[Prompt] = [
            {"prompt_token_ids": rng.choices(COMMON_IDS, k=options.input_len)} for _ in range(options.batch_size)
        ]
        start = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds.append(time.perf_counter() - start)
        _check(outputs)
        ended()
    num_tokens = options.batch_size * options.n * options.output_len
    return Latency(seconds[options.num_iters_warmup :], num_tokens)


@dataclass(frozen=True, slots=True)
class Throughput:
    """All requests at once: seconds until the last token, and tokens."""

    seconds: float
    num_requests: int
    prompt_tokens: int
    output_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    def result(self) -> dict[str, Any]:
        """The result under vLLM's keys, and prompt and output tokens."""
        return {
            "elapsed_time": self.seconds,
            "num_requests": self.num_requests,
            "total_num_tokens": self.total_tokens,
            "requests_per_second": self.num_requests / self.seconds,
            "tokens_per_second": self.total_tokens / self.seconds,
            "output_tokens_per_second": self.output_tokens / self.seconds,
            "num_prompt_tokens": self.prompt_tokens,
            "num_output_tokens": self.output_tokens,
        }


def measure_throughput(llm: LLM, samples: Sequence[SampleRequest], *, ignore_eos: bool, show: bool) -> Throughput:
    """Generate for all samples in one call. Raises `ConfigError` for conversations, which need a server."""
    prompts = [_prompt(sample) for sample in samples]
    params = [SamplingParams(ignore_eos=ignore_eos, max_tokens=sample.output_len) for sample in samples]
    start = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=show)
    seconds = time.perf_counter() - start
    _check(outputs)
    return Throughput(
        seconds=seconds,
        num_requests=len(outputs),
        prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
        output_tokens=sum(len(one.token_ids) for output in outputs for one in output.outputs),
    )


def _prompt(sample: SampleRequest) -> Prompt:
    if isinstance(sample.prompt, str):
        return sample.prompt
    ids = [token for token in sample.prompt if isinstance(token, int)]
    if not ids:
        raise ConfigError("messages are for bench serve --backend openai-chat; bench throughput takes prompts")
    return {"prompt_token_ids": ids}


def _check(outputs: Sequence[RequestOutput]) -> None:
    """Raise `EngineError` if a request failed: metrics of an incomplete workload are not comparable."""
    for output in outputs:
        for one in output.outputs:
            if one.finish_reason not in ("stop", "length"):
                raise EngineError(f"request {output.request_id} ended with {one.finish_reason}: {one.error}")
