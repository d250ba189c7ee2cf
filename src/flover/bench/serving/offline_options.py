"""Options of the benchmarks that run without clients, with vLLM's names where it has them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from flover.config import flag_name, setting
from flover.errors import ConfigError

_BATCH, _STARTS, _SWEEP = "batch", "starts", "sweep"


def _at_least(options: Any, **limits: int) -> None:
    for item in fields(options):
        least = limits.get(item.name, 1)
        value = getattr(options, item.name)
        if type(value) is int and value < least:
            raise ConfigError(f"{flag_name(item.name)} must be at least {least}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptions:
    """Options of `bench latency`."""

    input_len: int = setting(32, "prompt tokens of each request", group=_BATCH)
    output_len: int = setting(128, "output tokens of each sequence", group=_BATCH)
    batch_size: int = setting(8, "requests at once", group=_BATCH)
    n: int = setting(1, "sequences of each request", group=_BATCH)
    num_iters_warmup: int = setting(10, "warm-up batches", group=_BATCH)
    num_iters: int = setting(30, "measured batches", group=_BATCH)
    output_json: str | None = setting(None, "file for the result", group=_BATCH)

    def __post_init__(self) -> None:
        _at_least(self, num_iters_warmup=0)

    @property
    def num_rows(self) -> int:
        """Sequences that run at once."""
        return self.batch_size * self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupOptions:
    """Options of `bench startup`."""

    num_iters_cold: int = setting(3, "starts with the weights out of the system's page cache", group=_STARTS)
    num_iters_warm: int = setting(3, "starts with the weights in it", group=_STARTS)
    output_json: str | None = setting(None, "file for the result", group=_STARTS)

    def __post_init__(self) -> None:
        _at_least(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """Options of `bench sweep`."""

    serve_cmd: str | None = setting(
        None, "'flover serve …' to start for each server setting; else the server of --base-url is used", group=_SWEEP
    )
    serve_params: str | None = setting(
        None, "JSON (or a file of it): a list of {flag: value}, or names of those; one server for each", group=_SWEEP
    )
    bench_params: str | None = setting(None, "the same for flags of bench serve", group=_SWEEP)
    request_rates: tuple[str, ...] = setting(
        ("1", "2", "4", "8", "16", "inf"), "requests per second to try", group=_SWEEP
    )
    attainment: float = setting(0.9, "fraction of requests that must be good up to the knee", group=_SWEEP)
    output_dir: str | None = setting(None, "directory for the plot and the result of each point", group=_SWEEP)

    def __post_init__(self) -> None:
        if not 0 < self.attainment <= 1:
            raise ConfigError(f"--attainment must be above 0 and at most 1, got {self.attainment:g}")
        if self.serve_params is not None and self.serve_cmd is None:
            raise ConfigError("--serve-params needs --serve-cmd, the server that they apply to")
        _ = self.rates

    @property
    def rates(self) -> list[float]:
        """Ascending, each once."""
        try:
            rates = sorted({float(text) for text in self.request_rates})
        except ValueError:
            rates = []
        if not rates or not all(rate > 0 for rate in rates):
            raise ConfigError(f"--request-rates must be numbers above 0, got {' '.join(self.request_rates)}")
        return rates


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationOptions:
    """Options of `bench speculation`."""

    output_len: int = setting(64, "output tokens of each request", group=_BATCH)
    num_iters: int = setting(5, "measured pairs of batches, after one to warm up", group=_BATCH)

    def __post_init__(self) -> None:
        _at_least(self)
