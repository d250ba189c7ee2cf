"""Prometheus metrics. Names after the prefix, `flover:` or `vllm:`, are vLLM's where vLLM has the metric.

Label values come from closed sets. Engine counters are read off the newest `EngineStats` at each scrape; what
only the server sees (latencies, lengths) is observed as it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flover.engine.stats import EngineStats
from flover.request import FinishReason
from flover.service.supervisor import Supervisor

CONTENT_TYPE = CONTENT_TYPE_LATEST
_LABELS = ("model_name",)
_STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
_TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5, 10, 20, 40, 80, 160, 640, 2560)
_ITL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 80)
_E2E_BUCKETS = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_POWERS = tuple(2.0**i for i in range(15))
_LENGTHS = tuple(float(digit * 10**i) for i in range(6) for digit in (1, 2, 5))


class Metrics:
    """All metrics of one server."""

    def __init__(self, model_name: str, prefix: str = "flover") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._model_name, self._prefix = model_name, prefix
        self._iterations: dict[int, int] = {}  # of each replica
        self._engine = _EngineCollector(model_name, prefix)
        self._registry.register(self._engine)
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token", _TTFT_BUCKETS
        )
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of one sequence", _ITL_BUCKETS
        )
        self.e2e_latency = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the last token", _E2E_BUCKETS
        )
        self.prompt_tokens = self._histogram("request_prompt_tokens", "Prompt tokens of a request", _LENGTHS)
        self.generation_tokens = self._histogram(
            "request_generation_tokens", "Tokens generated for a sequence", _LENGTHS
        )
        self.params_n = self._histogram("request_params_n", "Sequences asked for by a request", _POWERS[:7])
        self.params_max_tokens = self._histogram("request_params_max_tokens", "max_tokens of a request", _LENGTHS)
        self._iteration_rows = self._histogram("iteration_rows", "Generating rows of an iteration", _POWERS[:11])
        self._iteration_tokens = self._histogram(
            "iteration_tokens", "Tokens of an iteration, of prompts and generating rows together", _POWERS
        )
        self._finished = Counter(
            f"{prefix}:request_success",
            "Sequences ended, by finish reason as the client sees it",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )
        for reason in FinishReason:
            self._finished.labels(model_name, str(reason))
        self.rejected = Counter(
            f"{prefix}:requests_rejected", "Requests answered with 429", _LABELS, registry=self._registry
        ).labels(model_name)

        self._answers = Counter(
            f"{prefix}:http_requests",
            "HTTP requests answered, by class of status",
            (*_LABELS, "status"),
            registry=self._registry,
        )
        for kind in _STATUS_CLASSES:
            self._answers.labels(model_name, kind)

    def answered(self, status: int) -> None:
        """Count an HTTP response."""
        self._answers.labels(self._model_name, f"{min(max(status // 100, 1), 5)}xx").inc()

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        metric = Histogram(f"{self._prefix}:{name}", help, _LABELS, registry=self._registry, buckets=buckets)
        return metric.labels(self._model_name)

    def open(self, supervisor: Supervisor) -> None:
        """Start to collect the engines' counters."""
        self._engine.supervisor = supervisor

    def on_stats(self, replica: int, stats: EngineStats) -> None:
        """Take one snapshot of a replica's counters, sent after every iteration."""
        before, self._iterations[replica] = self._iterations.get(replica, 0), stats.iterations
        if stats.iterations not in (0, before):
            self._iteration_rows.observe(stats.generating)
            self._iteration_tokens.observe(stats.generating + stats.chunk_tokens)

    def finished(self, reason: FinishReason) -> None:
        """Count a finished sequence."""
        self._finished.labels(self._model_name, str(reason)).inc()

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


Reading = tuple[str, Callable[[EngineStats], float]]
_GAUGES: dict[str, Reading] = {
    "num_requests_running": ("Sequences that have a row", lambda stats: stats.running),
    "num_requests_waiting": ("Sequences that wait for a row", lambda stats: stats.waiting),
    "kv_cache_usage_perc": (
        "Part of the pages in use, 0 to 1",
        lambda stats: _part(stats.pages_used, stats.pages_total),
    ),
    "kv_pages_used": ("Pages owned by sequences", lambda stats: stats.pages_used),
    "kv_pages_cached": ("Unused pages that hold a reusable prefix", lambda stats: stats.pages_cached),
    "kv_pages": ("Pages of the pool", lambda stats: stats.pages_total),
    "kv_offload_pages_used": ("Slots of the host tier that hold a page", lambda stats: stats.offload_slots_used),
    "kv_offload_pages": ("Slots of the host tier; 0 when it was given up", lambda stats: stats.offload_slots),
    "iteration_seconds": ("Duration of the last iteration", lambda stats: stats.step_ms / 1e3),
}
_COUNTERS: dict[str, Reading] = {
    "prompt_tokens": ("Prompt tokens computed", lambda stats: stats.prompt_tokens),
    "generation_tokens": ("Tokens generated", lambda stats: stats.generation_tokens),
    "num_preemptions": ("Sequences preempted", lambda stats: stats.preemptions),
    "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache", lambda stats: stats.queried_tokens),
    "prefix_cache_hits": ("Prompt tokens found in the prefix cache", lambda stats: stats.cached_tokens),
    "external_prefix_cache_hits": (
        "Tokens whose keys and values were loaded from the host tier",
        lambda stats: stats.offload_tokens,
    ),
    "kv_offload_stored_bytes": ("Bytes stored in the host tier", lambda stats: stats.offload_stored_bytes),
    "kv_offload_loaded_bytes": ("Bytes loaded from the host tier", lambda stats: stats.offload_loaded_bytes),
    "kv_offload_errors": ("Times that the host tier was given up", lambda stats: stats.offload_errors),
    "spec_decode_num_drafts": ("Rows for which tokens were proposed", lambda stats: stats.drafts),
    "spec_decode_num_draft_tokens": ("Tokens proposed", lambda stats: stats.draft_tokens),
    "spec_decode_num_accepted_tokens": ("Proposed tokens that were sampled", lambda stats: stats.accepted_tokens),
    "row_moves": ("Rows moved by buffer reordering", lambda stats: stats.row_moves),
    "iteration_faults": ("Iterations that raised", lambda stats: stats.faults),
    "kernel_compilations": ("Kernels of a GPU compiled after the start", lambda stats: stats.compilations),
    "busy_seconds": ("Seconds from step to step while requests were open", lambda stats: stats.busy_seconds),
    "kernel_seconds": ("Of the busy seconds, those spent in kernels", lambda stats: stats.kernel_seconds),
}


class _EngineCollector(Collector):
    """The newest snapshot of the engines as metrics."""

    def __init__(self, model_name: str, prefix: str) -> None:
        self.supervisor: Supervisor | None = None
        self._model_name, self._prefix = model_name, prefix

    def collect(self) -> Iterator[Metric]:
        stats = EngineStats() if self.supervisor is None else self.supervisor.stats
        restarts = CounterMetricFamily(f"{self._prefix}:engine_restarts", "Engines restarted", labels=_LABELS)
        restarts.add_metric([self._model_name], 0 if self.supervisor is None else self.supervisor.num_restarts)
        yield restarts
        for name, (help, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"{self._prefix}:{name}", help, labels=_LABELS)
            gauge.add_metric([self._model_name], read(stats))
            yield gauge
        for name, (help, read) in _COUNTERS.items():
            counter = CounterMetricFamily(f"{self._prefix}:{name}", help, labels=_LABELS)
            counter.add_metric([self._model_name], read(stats))
            yield counter
        ended = CounterMetricFamily(
            f"{self._prefix}:engine_sequences", "Sequences ended in the engine", labels=(*_LABELS, "finished_reason")
        )
        for reason in FinishReason:
            ended.add_metric([self._model_name, str(reason)], stats.finished.get(str(reason), 0))
        yield ended


def _part(used: int, total: int) -> float:
    return used / total if total else 0.0
