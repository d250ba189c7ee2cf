"""The interference benchmark: inter-token gaps of running streams while a long prompt is computed.

Measured are the gaps between tokens of the streams from the sending of the long prompt until its first token.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from dataclasses import dataclass, replace
from itertools import pairwise

from flover.bench.client import Client, Send
from flover.bench.fusion import as_send, check_all_served
from flover.bench.metrics import RequestRecord, Spread
from flover.bench.options import InterferenceOptions
from flover.bench.workload import TOKEN_IDS, fixed, fixed_arrivals, random_jobs
from flover.errors import ConfigError

SETTLE = 0.1
"""Seconds before and after a long prompt that count neither as undisturbed nor as disturbed."""


@dataclass(frozen=True, slots=True)
class Interference:
    """Gaps of the streams, in milliseconds, undisturbed and while the long prompts were computed."""

    quiet: Spread
    disturbed: Spread
    num_gaps: int
    long_prompt_len: int
    long_ttft: Spread


async def measure_interference(url: str, options: InterferenceOptions) -> Interference:
    """Run the streams and send the long prompts, shortened to fit the model's context.

    Raises `ConfigError` if a stream does not fit, `EngineError` if a request fails.
    """
    async with Client(url) as client:
        card = await client.model()
        max_len = int(card["max_model_len"])
        if min(options.long_output_len, options.stream_prompt_len) >= max_len:
            raise ConfigError(f"the model's context of {max_len} tokens is too short for these lengths")
        long_prompt_len = min(options.long_prompt_len, max_len - options.long_output_len)
        return await _InterferenceRun(
            client, card["id"], max_len, replace(options, long_prompt_len=long_prompt_len)
        ).run()


class _InterferenceRun:
    """Streams that restart when their context is full, and the long prompts."""

    def __init__(self, client: Client, model: str, max_len: int, options: InterferenceOptions) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._stream_len = max_len - options.stream_prompt_len
        self._records: dict[tuple[int, int], RequestRecord] = {}  # by stream and number of restarts

    async def run(self) -> Interference:
        """Run until the last long prompt; a failing stream ends the run with its error."""
        streams = [asyncio.create_task(self._keep_streaming(index)) for index in range(self._options.num_streams)]
        visitor = asyncio.create_task(self._send_long_prompts())
        try:
            await asyncio.wait([visitor, *streams], return_when=asyncio.FIRST_COMPLETED)
            for task in streams:
                if task.done():
                    task.result()
            visits = await visitor
        finally:
            for running in (visitor, *streams):
                running.cancel()
            await asyncio.gather(visitor, *streams, return_exceptions=True)
        return self._judge(visits)

    async def _keep_streaming(self, index: int) -> None:
        for generation in itertools.count():
            seed = (self._options.seed * 1_000 + index) * 1_000 + generation
            send = self._send(seed, self._options.stream_prompt_len, self._stream_len)
            keep = functools.partial(self._records.__setitem__, (index, generation))
            check_all_served([await self._client.stream(send, keep)], [send])

    async def _send_long_prompts(self) -> list[RequestRecord]:
        while sum(len(record.ticks) > 4 for record in self._records.values()) < self._options.num_streams:
            await asyncio.sleep(0.02)
        visits = []
        for number in range(self._options.rounds + 1):
            await asyncio.sleep(self._options.pause)
            seed = 10**9 + 1_000 * self._options.seed + number
            send = self._send(seed, self._options.long_prompt_len, self._options.long_output_len)
            visits.append(await self._client.stream(send))
            check_all_served(visits[-1:], [send])
        return visits

    def _judge(self, visits: list[RequestRecord]) -> Interference:
        """The result of all long prompts but the first, which is the warm-up."""
        disturbed = self._gaps([(visit.sent, visit.ticks[0]) for visit in visits[1:]])
        quiet = self._gaps([(early.ticks[-1] + SETTLE, late.sent - SETTLE) for early, late in pairwise(visits)])
        return Interference(
            quiet=Spread.of(quiet),
            disturbed=Spread.of(disturbed),
            num_gaps=len(disturbed),
            long_prompt_len=self._options.long_prompt_len,
            long_ttft=Spread.of([visit.ttft for visit in visits[1:]]),
        )

    def _gaps(self, windows: list[tuple[float, float]]) -> list[float]:
        """Gaps of the streams that overlap one of the windows."""
        return [
            late - early
            for record in self._records.values()
            for early, late in pairwise(record.ticks)
            if any(early < end and late > start for start, end in windows)
        ]

    def _send(self, seed: int, prompt_len: int, output_len: int) -> Send:
        jobs = random_jobs(seed, fixed_arrivals(1, 0.0), fixed(prompt_len), fixed(output_len), TOKEN_IDS)
        return as_send(jobs[0], self._model)
