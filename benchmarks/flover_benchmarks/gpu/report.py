"""Tables of what `flover bench gpu` has measured, beside the floors that bandwidth and tensor cores set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flover.model.hf_config import read_config
from flover_benchmarks.gpu.floor import step_floor
from flover_benchmarks.gpu.machines import Gpu
from flover_benchmarks.gpu.parts import SHAPES
from flover_benchmarks.gpu.run import PartResult
from flover_benchmarks.paper import published
from flover_benchmarks.paper.bench import Table, number, times

PAPER = {"gpt-j-6b": "GPT-J", "llama-13b": "13B"}
"""What the paper calls our shapes."""
NONE = "–"


def measured_limits(results: Sequence[PartResult]) -> Gpu | None:
    """The GPU by what the part `limits` has measured of it."""
    for one in results:
        bandwidth, peak = one.found("copy_bytes_per_s"), one.found("bf16_ops_per_s")
        if one.spec.name == "limits" and bandwidth and peak:
            return Gpu(one.found("gpu"), bandwidth, peak, one.found("memory_bytes"))
    return None


def tables(results: Sequence[PartResult]) -> Iterator[Table]:
    """All that was measured; parts that failed or left something out, last."""
    gpu = measured_limits(results)
    for result in results:
        match result.spec.name:
            case "parity":
                yield _parity(result)
            case "limits":
                yield _limits(result)
            case "steps":
                yield _steps(result, gpu)
            case "E1":
                yield _experiment(result, results)
            case "E6":
                yield _lengths(result)
            case "transformers":
                yield _rivals(result)
    missing = [(one.spec.label, what) for one in results for what in one.left_out]
    missing += [(one.spec.label, f"FAILED: {one.error}") for one in results if one.error is not None]
    yield Table("Left out, and failed", ("part", "what"), tuple(missing) or ((NONE, "nothing"),))


def _parity(result: PartResult) -> Table:
    rows = []
    for record in result.records:
        name, error, gap = record["model"], record.get("logits_error"), record.get("tokens_gap")
        if error is not None:
            limit = f"at most {record['tolerance']:.0e}"
            rows.append((name, f"logits, {record['dtype']}", f"{error:.1e}", limit, _holds(record["holds"])))
        elif gap is not None:
            rows.append(
                (name, "tokens of an engine", f"{gap:.1e}", "logits below the largest", _holds(record["holds"]))
            )
        else:
            same = record["same_bits_alone"]
            rows.append((name, "bits of a row alone", "same" if same else "other", "batch_invariant", _holds(same)))
    return Table("Parity with the reference", ("model", "what", "found", "allowed", "holds"), tuple(rows))


def _holds(found: bool) -> str:
    return "yes" if found else "NO"


def _limits(result: PartResult) -> Table:
    bandwidth, peak = result.found("copy_bytes_per_s"), result.found("bf16_ops_per_s")
    rows = (
        ("GPU", str(result.found("gpu"))),
        ("copy, read and written", f"{bandwidth / 1e9:,.0f} GB/s" if bandwidth else NONE),
        ("product, bfloat16", f"{peak / 1e12:,.1f} TFLOP/s" if peak else NONE),
        ("a launch, of the host", _microseconds(result.found("launch_us"))),
        ("copy there and back", _microseconds(result.found("round_trip_us"))),
    )
    return Table("What the device can do", ("what", "measured"), rows)


def _microseconds(value: float | None) -> str:
    return f"{value:.1f} µs" if value is not None else NONE


def _steps(result: PartResult, gpu: Gpu | None) -> Table:
    _, config = read_config(SHAPES[result.spec.model])
    rows = []
    for record in result.records:
        if "rows" not in record:
            continue
        seconds, count = record["seconds"], record["rows"]
        floor = step_floor(config, gpu, count, record["context"]).seconds if gpu else None
        rows.append(
            (
                str(record["context"]),
                str(count),
                f"{seconds * 1e3:.2f}",
                f"{floor * 1e3:.2f}" if floor else NONE,
                times(seconds / floor) if floor else NONE,
                f"{count / seconds:,.0f}",
                NONE if record["host_share"] is None else f"{record['host_share']:.0%}",
                f"{record['kernels'] / config.num_layers:.1f}" if record["kernels"] else NONE,
            )
        )
    header = ("context", "rows", "step, ms", "floor, ms", "step / floor", "tokens/s", "host share", "kernels / layer")
    return Table(f"Steps of {result.spec.model}; floors by the measured copy and product", header, tuple(rows))


def _experiment(result: PartResult, results: Sequence[PartResult]) -> Table:
    """E1 with the concurrent instances of the part that follows."""
    model, num = result.spec.model, result.found("requests")
    found = [record for record in result.records if "strategy" in record]
    for other in results:
        if other.spec.name == "concurrent" and other.spec.model == model:
            found += [record for record in other.records if "strategy" in record]
    fused = next((record["seconds"] for record in found if record["strategy"] == "fusion"), None)
    paper = published.E1_SPEEDUP.get(PAPER.get(model, ""))
    printed = times(paper[published.NUMS.index(num)]) if paper and num in published.NUMS else NONE
    rows = tuple(
        (
            record["label"],
            number(record["seconds"]),
            times(record["seconds"] / fused) if fused else NONE,
            printed if record["strategy"] == "concurrent" else NONE,
            times(record["mean_latency_s"] / result.found("lone_s")),
        )
        for record in found
    )
    header = ("strategy", "seconds", "over fusion", "paper", "mean latency / lone")
    sizes = f"{num} requests of {result.found('output_len')} tokens"
    return Table(f"E1: {model}, {sizes}, one every {E1_GAP:.2f} lone times", header, rows)


E1_GAP = published.GAP_SHARE["GPT-J"]


def _lengths(result: PartResult) -> Table:
    seconds: dict[tuple[str, bool], dict[int, float]] = {}
    for record in result.records:
        if "spread" in record:
            seconds.setdefault((record["strategy"], record["reorder"]), {})[record["spread"]] = record["seconds"]
    fused, kept = seconds.get(("fusion", True), {}), seconds.get(("fusion", False), {})
    serial = seconds.get(("serial", True), {})
    rows = tuple(
        (
            f"up to {spread} times",
            *(number(one[spread]) if spread in one else NONE for one in (fused, kept, serial)),
            *(
                times(one[spread] / fused[spread]) if spread in one and spread in fused else NONE
                for one in (kept, serial)
            ),
            times(printed[1]),
            times(printed[0]),
        )
        for spread, printed in published.E6_SPREADS.items()
    )
    header = ("lengths", "fusion, s", "not reordered, s", "serial, s", "gain", "over serial", "paper: gain", "paper")
    return Table(f"E6: {result.spec.model}, {result.found('requests')} requests", header, rows)


def _rivals(result: PartResult) -> Table:
    found: dict[int, dict[str, float]] = {}
    for record in result.records:
        if "engine" in record:
            found.setdefault(record["requests"], {})[record["engine"]] = record["tokens_per_s"]
    rows = []
    for count, rates in found.items():
        ours, theirs = rates.get("flover"), rates.get("transformers")
        shown = (f"{rate:,.0f}" if rate else NONE for rate in (ours, theirs))
        rows.append((str(count), *shown, times(ours / theirs) if ours and theirs else NONE))
    header = ("requests", "flover, tokens/s", "transformers, tokens/s", "ratio")
    return Table(f"transformers' generate_batch, {result.spec.model}", header, tuple(rows))
