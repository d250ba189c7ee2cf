"""OpenTelemetry spans of requests (`--otlp-traces-endpoint`): one of the whole, and one for each part of its time.

Names of attributes are vLLM's, and those of the conventions for generative AI. All of OpenTelemetry runs in one thread
behind a bounded queue: a collector that is slow or gone costs spans, and no request any time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from flover.errors import ConfigError
from flover.extras import need
from flover.request import FinishReason
from flover.sampling_checks import RANGES
from flover.server.generation import Generation
from flover.server.usage import intervals_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

MAX_WAITING = 2048
"""Requests whose spans may wait for the collector; those of further ones are lost, and counted."""
MOST_AT_ONCE = 128
"""Requests whose spans are sent together."""
EXPORT_SECONDS = 10.0
CLOSE_SECONDS = 2.0
"""For the last spans when the server ends."""
FLAG = "--otlp-traces-endpoint"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """What the spans of a request are made from. Times are nanoseconds since 1970."""

    carrier: Mapping[str, str]
    """The headers of W3C's trace context."""
    began: int
    parts: Sequence[tuple[str, int, int]]
    """Name, begin and end."""
    attributes: Mapping[str, Any]
    failed: bool


class Traces:
    """Sends the spans of ended requests to a collector."""

    def __init__(self, endpoint: str, model: str) -> None:
        """`endpoint` is the URL for OTLP over HTTP. Raises `ConfigError` if it is none, or a package is missing."""
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"{FLAG} must be an http:// or https:// URL, such as http://localhost:4318/v1/traces (there is no OTLP "
                f"over gRPC), got {endpoint!r}"
            )
        need("opentelemetry.exporter.otlp.proto.http", "otel", FLAG)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what fails is said here, once
        self._model, self._lost, self._reachable = model, 0, True
        self._waiting: queue.Queue[EndedRequest | None] = queue.Queue(MAX_WAITING)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def record(
        self, headers: Headers, path: str, request_id: str, began: float, status: int, generation: Generation
    ) -> None:
        """A request that began at `began`, on `time.monotonic`, has been answered."""
        now, params = time.monotonic(), generation.prompts[0].request.params
        start = time.time_ns() - round((now - began) * 1e9)
        reasons = [str(reason) for reason in generation.finish_reasons]
        sampling = {name: getattr(params, name) for name in RANGES}
        attributes = {
            "url.path": path,
            "http.response.status_code": status,
            "gen_ai.request.id": request_id,
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.finish_reasons": reasons,
            **{f"gen_ai.request.{name}": value for name, value in sampling.items() if value is not None},
            "gen_ai.usage.num_sequences": len(generation.choices),
            "gen_ai.usage.prompt_tokens": generation.prompt_tokens,
            "gen_ai.usage.input_tokens": generation.prompt_tokens,
            "gen_ai.usage.completion_tokens": generation.completion_tokens,
            "gen_ai.usage.output_tokens": generation.completion_tokens,
            "gen_ai.latency.e2e": now - generation.arrival,
        }
        if generation.time_to_first_token is not None:
            attributes["gen_ai.latency.time_to_first_token"] = generation.time_to_first_token
        parts = [
            (part["name"], start + 1000 * part["start_us"], start + 1000 * (part["start_us"] + part["duration_us"]))
            for part in intervals_of(began, now, generation)
        ]
        ended = EndedRequest(
            carrier={name: headers[name] for name in ("traceparent", "tracestate") if name in headers},
            began=start,
            parts=parts,
            attributes=attributes,
            failed=status >= 500 or FinishReason.ERROR in generation.finish_reasons,
        )
        try:
            self._waiting.put_nowait(ended)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Send what waits, for at most two seconds."""
        try:
            self._waiting.put_nowait(None)
            self._thread.join(CLOSE_SECONDS)
        except queue.Full:
            pass
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        made: list[ReadableSpan] = []
        provider = _provider(made.append)
        more = True
        while more:
            waiting = [self._waiting.get()]
            while len(waiting) < MOST_AT_ONCE and not self._waiting.empty():
                waiting.append(self._waiting.get())
            more = waiting[-1] is not None
            for ended in waiting:
                if ended is not None:
                    _make_spans(provider, ended)
            self._send(made, len(waiting) - (not more))
            made.clear()

    def _send(self, spans: list[ReadableSpan], num_requests: int) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            sent = not spans or self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:
            logger.debug("spans cannot be sent: %s", type(error).__name__)
            sent = False
        self._lost += 0 if sent else num_requests
        if sent != self._reachable:
            logger.warning(
                "%s %s", FLAG, "takes spans again" if sent else "takes no spans: they are lost until it does"
            )
            self._reachable = sent
        if sent and self._lost:
            logger.warning("%s: the spans of %d requests were lost", FLAG, self._lost)
            self._lost = 0


def _provider(take: Callable[[ReadableSpan], None]) -> TracerProvider:
    """Makes spans, and hands each one that has ended and is sampled to `take`."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    class Taking(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.context is not None and span.context.trace_flags.sampled:
                take(span)

    named = "service.name" in OTELResourceDetector().detect().attributes
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "flover"}))
    processor: SpanProcessor = Taking()
    provider.add_span_processor(processor)
    return provider


def _make_spans(provider: TracerProvider, ended: EndedRequest) -> None:
    """The span of a request, below that of its client if it names one, and those of its parts."""
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer("flover")
    context = TraceContextTextMapPropagator().extract(ended.carrier)
    whole = tracer.start_span("llm_request", context, SpanKind.SERVER, ended.attributes, start_time=ended.began)
    for name, start, end in ended.parts:
        part = tracer.start_span(f"llm_request.{name}", set_span_in_context(whole), start_time=start)
        part.end(end)
    if ended.failed:
        whole.set_status(Status(StatusCode.ERROR))
    whole.end(ended.parts[-1][2] if ended.parts else None)
