"""Runs the parts one after another, each in a process of its own, within the budget of all of them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any

from flover.errors import ConfigError
from flover_benchmarks.gpu.parts import PartSpec, seconds_for

WORKER = "flover_benchmarks.gpu.worker"
GRACE = 15.0
"""Seconds that a part may take more than it was given, to finish what it has begun."""


@dataclass(slots=True)
class PartResult:
    """What came of a part: its records in order, what it left out, and why it failed if it did."""

    spec: PartSpec
    seconds: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    error: str | None = None
    traceback: list[str] = field(default_factory=list)

    def found(self, name: str) -> Any:
        """The last value of that name in its records; None if there is none."""
        return next((record[name] for record in reversed(self.records) if name in record), None)

    def take(self, record: dict[str, Any]) -> None:
        """One line of the part's process. Raises `ConfigError` where there is no GPU: no part can run."""
        if "refused" in record:
            raise ConfigError(record["refused"])
        if "left_out" in record:
            self.left_out.append(record["left_out"])
        elif "error" in record:
            self.error, self.traceback = record["error"], record.get("traceback", [])
        elif "done" not in record:
            self.records.append(record)

    def facts(self) -> dict[str, Any]:
        """For its line of JSON."""
        return {
            "part": self.spec.name,
            "model": self.spec.model or None,
            "seconds": self.seconds,
            "budget_s": self.spec.seconds,
            "records": self.records,
            "left_out": self.left_out,
            "error": self.error,
            "traceback": self.traceback,
        }


def run_parts(
    parts: Sequence[PartSpec],
    budget: float,
    clock: Callable[[], float],
    say: Callable[[str], None],
    show: Callable[[PartResult], None],
) -> list[PartResult]:
    """All parts in order. `show` gets each as it ends; a part that fails or takes too long costs no other part."""
    end, results = clock() + budget, list[PartResult]()
    for place, part in enumerate(parts):
        seconds = seconds_for(parts[place:], end - clock())
        spec = replace(part, seconds=seconds, known=_known(part, results))
        say(f"{spec.label}: at most {seconds:.0f} s ({place + 1}/{len(parts)})")
        results.append(run_part(spec, clock, say))
        show(results[-1])
    return results


def _known(part: PartSpec, results: Sequence[PartResult]) -> dict[str, Any]:
    """For concurrent instances the time of one request alone, as E1 has measured it."""
    if part.name != "concurrent":
        return {}
    alone = (one.found("lone_s") for one in results if one.spec.name == "E1" and one.spec.model == part.model)
    return {"lone_s": next(alone, None)}


def run_part(spec: PartSpec, clock: Callable[[], float], say: Callable[[str], None]) -> PartResult:
    """One part in a new process, which is ended when its time is up."""
    result, start = PartResult(spec), clock()
    if spec.seconds < 1:
        result.left_out.append("no time was left")
        return result
    command = [sys.executable, "-m", WORKER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(spec.to_json()) + "\n")
                process.stdin.flush()
            for line in lines_until(process.stdout, lambda: start + spec.seconds + GRACE - clock()):
                if line is None:
                    result.left_out.append(f"what it had not measured after {clock() - start:.0f} s")
                    break
                record = json.loads(line)
                result.take(record)
                say(f"  {spec.label}: {json.dumps(record)[:160]}")
            else:
                code = process.wait()
                if result.error is None and code:
                    result.error = f"its process ended with {code}"
        finally:
            with suppress(ProcessLookupError):  # the group may have processes that outlive their first one
                os.killpg(process.pid, signal.SIGKILL)
    result.seconds = clock() - start
    return result


def lines_until(stream: IO[str], left: Callable[[], float]) -> Iterator[str | None]:
    """Lines of the stream until it ends; None, and no more, once no seconds are left."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(0.01, left()))
        except queue.Empty:
            yield None
            return
        if line is None:
            return
        yield line
