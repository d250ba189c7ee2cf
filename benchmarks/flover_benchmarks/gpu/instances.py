"""Concurrent instances: engine processes that have a copy of the model each and serve one request at a time; a request
goes to the first that is free."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from flover.bench.metrics import RequestRecord
from flover.bench.workload import Job
from flover.errors import EngineError
from flover.model.hf_config import read_config
from flover_benchmarks.gpu.device import gpu_of
from flover_benchmarks.gpu.floor import model_bytes
from flover_benchmarks.gpu.model import on_device
from flover_benchmarks.gpu.paper import Emit, EngineRunner, Skip, jobs_of
from flover_benchmarks.gpu.parts import SHAPES, PartSpec
from flover_benchmarks.paper.arrivals import E1_GAP_SHARE
from flover_benchmarks.paper.bench import PROMPT_LEN, SERIAL
from flover_benchmarks.paper.outcome import Outcome

WORKER = "flover_benchmarks.gpu.worker"
BESIDE_WEIGHTS = 3 * 2**30
"""Bytes of an instance besides its weights: its context, activations, keys and values of one request."""


def serve_requests(spec: PartSpec, emit: Emit, lines: Iterable[str]) -> None:
    """One instance: the job of each line alone; emits when its first and last tokens came, on the machine's clock."""
    longest = PROMPT_LEN + spec.sizes.output_len + 1
    with on_device(spec.model, spec.device, max_num_seqs=1, max_model_len=longest) as model:
        runner = EngineRunner(model)
        runner.run(jobs_of(spec.sizes, 0.0)[:1], SERIAL)
        emit(ready=True)
        for line in lines:
            job = Job(**json.loads(line))
            record = runner.run([replace(job, at=0.0)], SERIAL).records[0]
            emit(first=record.ticks[0], end=record.end, output_tokens=record.output_tokens)


def concurrent_instances(spec: PartSpec, left: Callable[[], float], emit: Emit, skip: Skip) -> None:
    """E1's workload on as many instances as fit, and no more than `sizes.instances`."""
    lone, sizes = spec.known.get("lone_s"), spec.sizes
    if lone is None:
        skip("the time of one request alone is not known: E1 has not measured it")
        return
    _, config = read_config(SHAPES[spec.model])
    gpu = gpu_of(spec.device)
    room = int(gpu.free_bytes // (model_bytes(config) + BESIDE_WEIGHTS)) if gpu.device.type == "cuda" else 2
    count = min(room, sizes.instances, sizes.num_requests)
    if count < 2:
        skip(f"{gpu.name} has no room for two instances")
        return
    instances = [Instance(replace(spec, name="instance")) for _ in range(count)]
    try:
        for instance in instances:
            instance.read()
        expected = lone * sizes.num_requests
        if expected > left():
            skip(f"{count} instances: it would take {expected:.0f} s, and {max(0.0, left()):.0f} s were left")
            return
        outcome = run_on(instances, jobs_of(sizes, E1_GAP_SHARE * lone))
    finally:
        for instance in instances:
            instance.close()
    emit(
        strategy="concurrent",
        label=f"{count} concurrent",
        instances=count,
        seconds=outcome.seconds,
        mean_latency_s=outcome.mean_latency,
    )


class Instance:
    """A process of `serve_requests`."""

    def __init__(self, spec: PartSpec) -> None:
        command = [sys.executable, "-m", WORKER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._write(spec.to_json())

    def read(self) -> dict[str, Any]:
        """What it emits next. Raises `EngineError` if it has ended or failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "it has ended"}
        if "error" in found:
            raise EngineError(f"a concurrent instance failed: {found['error']}")
        return found

    def serve(self, job: Job) -> dict[str, Any]:
        """One job, waited for."""
        self._write(asdict(job))
        return self.read()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _write(self, document: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()


def run_on(instances: Sequence[Instance], jobs: Sequence[Job]) -> Outcome:
    """The jobs at their times, each on the first instance that is free. Raises `EngineError`."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(jobs)):
        todo.put(place)
    start = time.perf_counter()
    records = [RequestRecord(start + job.at, prompt_tokens=len(job.prompt_ids)) for job in jobs]
    errors: list[EngineError] = []

    def take(instance: Instance) -> None:
        while not errors:
            try:
                place = todo.get_nowait()
            except queue.Empty:
                return
            time.sleep(max(0.0, records[place].sent - time.perf_counter()))
            try:
                found = instance.serve(jobs[place])
            except EngineError as error:
                errors.append(error)
                return
            records[place].ticks = [found["first"]]
            records[place].end, records[place].output_tokens = found["end"], found["output_tokens"]

    threads = [threading.Thread(target=take, args=(instance,)) for instance in instances]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Outcome(records, sum(record.output_tokens for record in records), 0, ())
