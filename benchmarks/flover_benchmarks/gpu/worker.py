"""One part of `flover bench gpu`, in a process of its own: a device that has failed, or full memory, stays here.

Reads the part as one line of JSON from standard input, and writes a line for each thing that it finds; what anything
else prints goes to standard error. The last line says how the part ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from flover.bench.report import tidy
from flover.errors import ConfigError
from flover.ops.cuda.device import Gpu
from flover_benchmarks.gpu.device import gpu_of
from flover_benchmarks.gpu.parts import PartSpec

_LINES = 12
"""Of a traceback."""


def main() -> int:
    """Measure what standard input asks for."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec = PartSpec.from_json(json.loads(sys.stdin.readline()))
    return measure(spec, lambda found: _write(out, found), sys.stdin)


def measure(spec: PartSpec, write: Callable[[dict[str, Any]], None], lines: TextIO) -> int:
    """The part; whatever it raises is its last record."""
    end = time.perf_counter() + spec.seconds

    def emit(**facts: Any) -> None:
        write(facts)

    def skip(reason: str) -> None:
        write({"left_out": reason})

    try:
        gpu = gpu_of(spec.device)
    except ConfigError as error:
        write({"refused": str(error)})
        return 2
    try:
        _run(spec, gpu, lambda: end - time.perf_counter(), emit, skip, lines)
    except Exception as error:
        trace = traceback.format_exc().splitlines()[-_LINES:]
        write({"error": f"{type(error).__name__}: {error}", "traceback": trace})
        return 1
    write({"done": True})
    return 0


def _run(
    spec: PartSpec,
    gpu: Gpu,
    left: Callable[[], float],
    emit: Callable[..., None],
    skip: Callable[[str], None],
    lines: TextIO,
) -> None:
    from flover_benchmarks.gpu import instances, limits, paper, parity, rival, steps

    match spec.name:
        case "parity":
            for name in spec.sizes.parity:
                parity.check_parity(gpu.device, name, emit, skip)
        case "limits":
            limits.measure_limits(gpu, spec.sizes, emit)
        case "steps":
            steps.measure_steps(spec, left, emit, skip)
        case "E1":
            paper.fixed_interval(spec, left, emit, skip)
        case "E6":
            paper.mixed_lengths(spec, left, emit, skip)
        case "concurrent":
            instances.concurrent_instances(spec, left, emit, skip)
        case "instance":
            instances.serve_requests(spec, emit, lines)
        case "transformers":
            rival.compare(spec, left, emit, skip)
        case name:
            raise ValueError(f"there is no part {name!r}")


def _write(out: TextIO, found: dict[str, Any]) -> None:
    out.write(json.dumps(tidy(found)) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
