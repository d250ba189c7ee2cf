"""Options of `flover bench serve`, with vLLM's names; the command line is made from these fields."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flover.bench.routes import CHAT, COMPLETIONS
from flover.config import flag_name, setting
from flover.errors import ConfigError

BACKENDS = {"flover": COMPLETIONS, "openai": COMPLETIONS, "vllm": COMPLETIONS, "openai-chat": CHAT}
"""Backends and their routes."""
METRICS = ("ttft", "tpot", "itl", "e2el")
"""Metrics of a request."""
LIMITED = ("ttft", "tpot", "e2el")
"""Metrics with one value per request, which goodput can limit."""
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty"),
)
_SERVER, _TRAFFIC, _REQUESTS, _RESULTS = "server under test", "traffic", "requests", "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The server to measure."""

    backend: str = setting(
        "openai",
        "openai (completions), openai-chat, vllm (the same as openai), or flover: openai, with token ids in the "
        "response and a different cache salt for each run",
        group=_SERVER,
        choices=tuple(BACKENDS),
    )
    base_url: str | None = setting(None, "address of the server, instead of --host and --port", group=_SERVER)
    host: str = setting("127.0.0.1", "host of the server", group=_SERVER)
    port: int = setting(8000, "port of the server", group=_SERVER)
    endpoint: str | None = setting(None, "route of requests; the backend's by default", group=_SERVER)
    model: str | None = setting(None, "name of the model; the first that the server names by default", group=_SERVER)
    api_key: str | None = setting(None, "key to send as a bearer token; also read from FLOVER_API_KEY", group=_SERVER)
    header: tuple[str, ...] = setting((), "KEY=VALUE headers to send with each request", group=_SERVER)

    def __post_init__(self) -> None:
        pairs("--header", self.header)
        if self.endpoint is not None and not self.endpoint.startswith("/"):
            raise ConfigError(f"--endpoint must begin with /, got {self.endpoint!r}")

    @property
    def url(self) -> str:
        """The server's address without the route."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.base_url or f"http://{host}:{self.port}").rstrip("/")

    @property
    def path(self) -> str:
        return self.endpoint or BACKENDS[self.backend]

    @property
    def is_chat(self) -> bool:
        return BACKENDS[self.backend] == CHAT

    @property
    def is_flover(self) -> bool:
        """Whether the server supports Flover's fields."""
        return self.backend == "flover"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return key | pairs("--header", self.header)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Arrival of requests."""

    request_rate: float = setting(float("inf"), "requests per second; inf sends all at once", group=_TRAFFIC)
    burstiness: float = setting(
        1.0, "shape of the gamma distribution of gaps: 1 is Poisson, less is more bursty", group=_TRAFFIC
    )
    max_concurrency: int | None = setting(None, "most requests open at once; others wait in the client", group=_TRAFFIC)
    ramp_up_strategy: str | None = setting(
        None,
        "let the rate grow from --ramp-up-start-rps to --ramp-up-end-rps",
        group=_TRAFFIC,
        choices=(None, "linear", "exponential"),
    )
    ramp_up_start_rps: float | None = setting(None, "first rate of a ramp", group=_TRAFFIC)
    ramp_up_end_rps: float | None = setting(None, "last rate of a ramp", group=_TRAFFIC)
    num_warmups: int = setting(0, "warm-up requests", group=_TRAFFIC)
    ready_check_timeout_sec: float = setting(
        0.0, "seconds to wait for the server to be ready; 0 does not wait", group=_TRAFFIC
    )
    profile: bool = setting(False, "run the server's profiler during the measurement", group=_TRAFFIC)

    def __post_init__(self) -> None:
        for name in ("request_rate", "burstiness"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{flag_name(name)} must be above 0, got {getattr(self, name):g}")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ConfigError(f"--max-concurrency must be at least 1, got {self.max_concurrency}")
        for name in ("num_warmups", "ready_check_timeout_sec"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{flag_name(name)} must be at least 0, got {getattr(self, name)}")
        ends = (self.ramp_up_start_rps, self.ramp_up_end_rps)
        if self.ramp_up_strategy is None:
            if ends != (None, None):
                raise ConfigError("--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy")
            return
        if not math.isinf(self.request_rate):
            raise ConfigError("--request-rate and --ramp-up-strategy exclude each other")
        start, end = ends
        if start is None or end is None or not 0 < start <= end < math.inf:
            raise ConfigError("--ramp-up-strategy needs 0 < --ramp-up-start-rps <= --ramp-up-end-rps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling fields of every request; unset ones are left to the server."""

    ignore_eos: bool | None = setting(
        None, "generate to the full length; on by default for generated prompts and traces", group=_REQUESTS
    )
    temperature: float | None = setting(None, "sampling temperature; the server's by default", group=_REQUESTS)
    top_p: float | None = setting(
        None, "sample from the most likely tokens with this total probability", group=_REQUESTS
    )
    top_k: int | None = setting(None, "sample from this many of the most likely tokens", group=_REQUESTS)
    min_p: float | None = setting(None, "minimum probability, relative to the most likely token", group=_REQUESTS)
    frequency_penalty: float | None = setting(
        None, "lowers logits for each time a token was generated", group=_REQUESTS
    )
    presence_penalty: float | None = setting(None, "lowers logits of generated tokens", group=_REQUESTS)
    repetition_penalty: float | None = setting(
        None, "above 1 lowers logits of tokens in prompt and output", group=_REQUESTS
    )
    extra_body: str | None = setting(None, "JSON object to merge into each request", group=_REQUESTS)

    def __post_init__(self) -> None:
        self.fields()

    def fields(self) -> dict[str, Any]:
        """The given values as fields of a request; `extra_body` last. Raises `ConfigError`."""
        chosen = {name: getattr(self, name) for name in _SAMPLING if getattr(self, name) is not None}
        try:
            extra = json.loads(self.extra_body or "{}")
        except json.JSONDecodeError as error:
            raise ConfigError(f"--extra-body is not JSON: {error}") from error
        if not isinstance(extra, dict):
            raise ConfigError(f"--extra-body must be a JSON object, got {self.extra_body}")
        return chosen | extra


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """What to report, and where to save it."""

    percentile_metrics: str = setting(",".join(METRICS), "comma-separated metrics to report", group=_RESULTS)
    metric_percentiles: str = setting("99", "comma-separated percentiles to report of each", group=_RESULTS)
    goodput: tuple[str, ...] = setting(
        (), "limits in milliseconds of good requests, as ttft:500 tpot:50 e2el:10000", group=_RESULTS
    )
    save_result: bool = setting(False, "write the result to a JSON file", group=_RESULTS)
    save_detailed: bool = setting(False, "include every request in the file", group=_RESULTS)
    append_result: bool = setting(False, "append a line to the file instead of replacing it", group=_RESULTS)
    result_dir: str | None = setting(None, "directory of the file; the current one by default", group=_RESULTS)
    result_filename: str | None = setting(None, "by default {label}-{rate}qps-{model}-{time}.json", group=_RESULTS)
    label: str | None = setting(None, "first part of the file's name; the backend by default", group=_RESULTS)
    metadata: tuple[str, ...] = setting((), "KEY=VALUE pairs to keep in the result", group=_RESULTS)
    disable_tqdm: bool = setting(False, "show no progress", group=_RESULTS)
    plot_timeline: bool = setting(False, "draw every request into a PNG beside the result", group=_RESULTS)

    def __post_init__(self) -> None:
        _ = self.metrics, self.percentiles, self.limits
        if taken := {"benchmark", "command"} & set(pairs("--metadata", self.metadata)):
            raise ConfigError(f"--metadata cannot be called {' or '.join(sorted(taken))}: the result has that already")
        if self.save_detailed and not self.saves:
            raise ConfigError("--save-detailed needs --save-result or --append-result")

    @property
    def saves(self) -> bool:
        """Whether the result is saved to a file."""
        return self.save_result or self.append_result

    @property
    def metrics(self) -> tuple[str, ...]:
        names = tuple(name.strip() for name in self.percentile_metrics.split(","))
        if unknown := [name for name in names if name not in METRICS]:
            raise ConfigError(f"--percentile-metrics knows {', '.join(METRICS)}, got {', '.join(unknown)}")
        return names

    @property
    def percentiles(self) -> tuple[float, ...]:
        values = [_number("--metric-percentiles", text) for text in self.metric_percentiles.split(",")]
        if not all(0 <= value <= 100 for value in values):
            raise ConfigError(f"--metric-percentiles must be between 0 and 100, got {self.metric_percentiles}")
        return tuple(values)

    @property
    def limits(self) -> dict[str, float]:
        """Limits of good requests in milliseconds, by metric."""
        found: dict[str, float] = {}
        for text in self.goodput:
            name, colon, value = text.partition(":")
            if not colon or name not in LIMITED:
                raise ConfigError(f"--goodput takes NAME:MILLISECONDS with {', '.join(LIMITED)}, got {text}")
            found[name] = _number("--goodput", value)
            if not found[name] > 0:
                raise ConfigError(f"--goodput limits must be above 0, got {text}")
        return found


def pairs(flag: str, items: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE arguments as a dictionary. Raises `ConfigError`."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{flag} takes KEY=VALUE, got {item!r}")
        found[key.strip()] = value.strip()
    return found


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ConfigError(f"{flag} takes numbers, got {text!r}")
    return value
