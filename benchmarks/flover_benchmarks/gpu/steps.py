"""What a generate step takes, at many numbers of rows and lengths of context: a whole engine's, whose prompts are not
computed, so that only steps cost time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from flover.engine.loop import Engine
from flover.errors import FloverError
from flover.request import GREEDY, Request, SamplingParams
from flover_benchmarks.gpu.device import busy_in
from flover_benchmarks.gpu.model import OnDevice, on_device
from flover_benchmarks.gpu.parts import PartSpec

_CHUNK = 16384
"""Prompt tokens of an iteration; they are not computed."""
_WARM_UP, _PROFILED = 5, 4


def measure_steps(
    spec: PartSpec, left: Callable[[], float], emit: Callable[..., None], skip: Callable[[str], None]
) -> None:
    """Emits a record for each number of rows and context; `skip` says which are left out and why."""
    sizes = spec.sizes
    longest = max(sizes.contexts) + most_tokens(max(sizes.rows), max(sizes.contexts), sizes.steps)
    started = time.perf_counter()
    settings = {"max_num_seqs": max(sizes.rows), "max_model_len": longest, "max_num_batched_tokens": _CHUNK}
    with on_device(spec.model, spec.device, computes_prompts=False, **settings) as model:
        facts = model.executor.facts
        emit(ready_s=time.perf_counter() - started, parameters=facts.num_parameters, pool_tokens=facts.pool_tokens)
        for context in sizes.contexts:
            for rows in sizes.rows:
                page, most = facts.page_size, most_tokens(rows, context, sizes.steps)
                room = facts.pool_tokens // (-(-(context + most) // page) * page)
                if rows > room:
                    skip(f"{rows} rows of {context} tokens: keys and values have room for {room}")
                elif left() <= 0:
                    skip(f"{rows} rows of {context} tokens: no time was left")
                else:
                    emit(**step_times(model, rows, context, sizes.steps))


def step_times(model: OnDevice, rows: int, context: int, steps: int) -> dict[str, object]:
    """Seconds of a step, median and mean; those in which the device computes; kernels, copies; the longest kernels."""
    with generating(model.engine(), rows, context, most_tokens(rows, context, steps)) as engine:
        for _ in range(_WARM_UP):
            run_step(engine, rows)
        spent, last = [], time.perf_counter()
        for _ in range(steps):
            run_step(engine, rows)
            now = time.perf_counter()
            spent.append(now - last)
            last = now

        def profiled() -> None:
            for _ in range(_PROFILED):
                run_step(engine, rows)

        busy = busy_in(model.device, profiled)
    mean = statistics.fmean(spent)
    found = asdict(busy)
    longest = {name: seconds / _PROFILED for name, seconds in found["longest"].items()}
    return {
        "rows": rows,
        "context": context,
        "seconds": statistics.median(spent),
        "mean_seconds": mean,
        "device_seconds": busy.seconds / _PROFILED,
        "host_share": max(0.0, 1.0 - busy.seconds / _PROFILED / mean) if busy.kernels else None,
        "kernels": busy.kernels / _PROFILED,
        "copies": busy.copies / _PROFILED,
        "longest_kernels": longest,
    }


def most_tokens(rows: int, context: int, steps: int) -> int:
    """Tokens that a row may generate: the first one does while the last one's prompt has its turn."""
    return rows * context // _CHUNK + _WARM_UP + steps + _PROFILED + 8


@contextmanager
def generating(engine: Engine, rows: int, context: int, most: int) -> Iterator[Engine]:
    """An engine of which so many rows generate, each with `context` tokens; they are cancelled in the end."""
    params = SamplingParams(max_tokens=most, ignore_eos=True, **GREEDY)
    names = [f"row-{row}" for row in range(rows)]
    for row, name in enumerate(names):
        engine.submit(Request(id=name, prompt_ids=[16 + row % 200] * context, params=params, seed=row))
    begun: set[str] = set()
    while len(begun) < rows:
        begun |= {delta.request_id for delta in engine.step() if delta.token_ids}
    yield engine
    for name in names:
        engine.cancel(name)
    while engine.has_work:
        engine.step()


def run_step(engine: Engine, rows: int) -> None:
    """One iteration that generates in every row. Raises `FloverError` if it does not."""
    deltas = engine.step()
    if len(deltas) != rows or any(delta.error for delta in deltas):
        errors = {delta.error for delta in deltas if delta.error} or {f"{len(deltas)} of {rows} rows generated"}
        raise FloverError(f"a step failed: {'; '.join(sorted(errors))}")
