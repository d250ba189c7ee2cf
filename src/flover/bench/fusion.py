"""The fusion benchmark: the same number of requests all at once and one after another, on one server.

Both parts do the same work: token-id prompts of one length, a fixed number of output tokens, end-of-sequence
ignored, greedy. Their prompts differ, so that neither finds the other's in the prefix cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flover.bench.client import COMPLETIONS, Client, HostTime, Send, Watcher, host_time, mean_width
from flover.bench.metrics import RequestRecord, Summary, summarise
from flover.bench.options import FusionOptions
from flover.bench.workload import TOKEN_IDS, Job, fixed, fixed_arrivals, random_jobs
from flover.errors import EngineError
from flover.request import GREEDY


@dataclass(frozen=True, slots=True)
class FusionRun:
    """One part: its metrics and the mean batch size."""

    summary: Summary
    width: float | None
    records: list[RequestRecord]
    host: HostTime | None = None
    """Host time of iterations (outside kernels)."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Both parts of the comparison."""

    fused: FusionRun
    serial: FusionRun

    @property
    def ratio(self) -> float:
        """Output tokens per second, fused over serial."""
        return self.fused.summary.output_throughput / self.serial.summary.output_throughput


def as_send(job: Job, model: str) -> Send:
    """A greedy completion of fixed length for a job."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(job.prompt_ids),
        "max_tokens": job.output_len,
        **GREEDY,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    return Send(at=job.at, path=COMPLETIONS, body=body)


async def measured(client: Client, sends: list[Send], *, at_once: bool, watch: Watcher | None = None) -> FusionRun:
    """Run one part. Raises `EngineError` if a request fails: metrics of an incomplete workload are not comparable."""
    before = await client.metrics()
    deliver = client.all_at_their_time if at_once else client.one_after_another
    records = await deliver(sends, watch)
    after = await client.metrics()
    check_all_served(records, sends)
    return FusionRun(summarise(records), mean_width(before, after), records, host_time(before, after))


def check_all_served(records: list[RequestRecord], sends: list[Send]) -> None:
    """Raise `EngineError` naming the first request that failed or has the wrong number of tokens."""
    for index, (record, send) in enumerate(zip(records, sends, strict=True)):
        if not record.ok:
            raise EngineError(f"request {index} failed: {record.error}")
        wanted = send.body["max_tokens"]
        if record.output_tokens != wanted:
            raise EngineError(f"request {index} has {record.output_tokens} output tokens instead of {wanted}")


async def measure_fusion(url: str, options: FusionOptions) -> Fusion:
    """Warm up with one request, then all at once, then one after another."""

    def workload(seed: int, num_requests: int) -> list[Send]:
        jobs = random_jobs(
            seed, fixed_arrivals(num_requests, 0.0), fixed(options.prompt_len), fixed(options.output_len), TOKEN_IDS
        )
        return [as_send(job, model) for job in jobs]

    async with Client(url) as client:
        model = (await client.model())["id"]
        first_seed = 3 * options.seed
        await measured(client, workload(first_seed, 1), at_once=False)
        fused = await measured(client, workload(first_seed + 1, options.num_requests), at_once=True)
        serial = await measured(client, workload(first_seed + 2, options.num_requests), at_once=False)
    return Fusion(fused, serial)
