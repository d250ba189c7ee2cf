"""OpenTelemetry spans: what a collector gets, and that one which is gone harms nothing."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.datastructures import Headers
from support.servers import ServerProcess

from flover.errors import ConfigError
from flover.request import SamplingParams
from flover.server import tracing
from flover.server.generation import Generation

PARENT, TRACE = "00f067aa0ba902b7", "4bf92f3577b34da6a3ce929d0e0e4736"
GENERATION = {
    "arrival": 0.0,
    "submitted": 0.0,
    "choices": [],
    "finish_reasons": [],
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "time_to_first_token": None,
}


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Its URL, the spans that it got and the resources that they came with."""
    spans: list[Any] = []
    resources: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                resources.append(of_resource.resource)
                for of_scope in of_resource.scope_spans:
                    spans.extend(of_scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans, resources
    server.shutdown()
    server.server_close()
    thread.join()


def attributes_of(span: Any) -> dict[str, Any]:
    found = {}
    for item in span.attributes:
        kind = item.value.WhichOneof("value")
        value = getattr(item.value, kind)
        found[item.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


def test_a_request_is_a_span_with_its_parts_below_that_of_its_client(
    start: Callable[..., ServerProcess], collector: tuple[str, list[Any], list[Any]]
) -> None:
    url, spans, resources = collector
    server = start("--delay", "0.005", server={"otlp_traces_endpoint": url})
    body = {"prompt": "canary", "max_tokens": 20, "top_p": 0.5, "n": 2, "temperature": 1}
    before = time.time_ns()
    for flags in ("01", "00", ""):  # sampled, not sampled, with no parent
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"} if flags else {}
        answer = server.http.post("/v1/completions", json=body, headers={**headers, "X-Request-Id": f"r{flags}"})
        assert answer.status_code == 200
    assert server.post("/v1/completions", {"prompt": 1}).status_code == 400
    assert server.stop() == 0
    whole = {attributes_of(span)["gen_ai.request.id"]: span for span in spans if span.name == "llm_request"}
    assert whole.keys() == {"r01", "r"}
    span = whole["r01"]
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, 2)
    assert whole["r"].parent_span_id == b"" and whole["r"].trace_id.hex() != TRACE
    found = attributes_of(span)
    assert found["gen_ai.usage.prompt_tokens"] == 6 and found["gen_ai.usage.completion_tokens"] == 40
    assert found["gen_ai.request.n"] == 2 and found["gen_ai.request.top_p"] == 0.5
    assert found["gen_ai.response.model"] == "toy" and found["gen_ai.response.finish_reasons"] == ["length"] * 2
    assert 0 < found["gen_ai.latency.time_to_first_token"] < found["gen_ai.latency.e2e"]
    parts = sorted(
        (one for one in spans if one.parent_span_id == span.span_id), key=lambda one: one.start_time_unix_nano
    )
    assert [part.name.removeprefix("llm_request.") for part in parts] == [
        "receive",
        "prepare",
        "first_token",
        "generate",
        "send",
    ]
    assert before - 10**9 < span.start_time_unix_nano == parts[0].start_time_unix_nano
    assert span.end_time_unix_nano == parts[-1].end_time_unix_nano < time.time_ns() + 10**9
    assert sum(part.end_time_unix_nano - part.start_time_unix_nano for part in parts) == (
        span.end_time_unix_nano - span.start_time_unix_nano
    )
    assert {item.key: item.value.string_value for item in resources[0].attributes}["service.name"] == "flover"
    assert "canary" not in str(spans)


def ended_request() -> Generation:
    request = SimpleNamespace(params=SamplingParams())
    return cast(Generation, SimpleNamespace(**GENERATION, prompts=[SimpleNamespace(request=request)]))


def record(traces: tracing.Traces) -> None:
    traces.record(Headers(), "/", "r", time.monotonic(), 200, ended_request())


def test_a_collector_that_accepts_and_is_silent_holds_nothing_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        traces = tracing.Traces(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", "toy")
        record(traces)
        connection, _ = silent.accept()
        began = time.monotonic()
        for _ in range(50):
            record(traces)
        assert time.monotonic() - began < 0.5
        traces.close()
        assert time.monotonic() - began < tracing.EXPORT_SECONDS / 2
        connection.close()
    traces._thread.join(tracing.EXPORT_SECONDS)  # or what it logs falls into the next test
    assert not traces._thread.is_alive()


def test_spans_that_are_lost_are_counted_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, collector: tuple[str, list[Any], list[Any]]
) -> None:
    """Nothing listens at first, and more requests end than may wait."""
    monkeypatch.setattr(tracing, "EXPORT_SECONDS", 0.2)
    monkeypatch.setattr(tracing, "MAX_WAITING", 3)
    url, spans, _ = collector
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    traces = tracing.Traces(closed, "toy")
    began = time.monotonic()
    for _ in range(50):
        record(traces)
    assert time.monotonic() - began < 0.5
    until(lambda: "takes no spans" in caplog.text)
    traces._exporter = OTLPSpanExporter(endpoint=url)
    until(lambda: bool(record(traces) or spans))
    until(lambda: "takes spans again" in caplog.text and "requests were lost" in caplog.text)
    assert caplog.text.count("takes no spans") == 1
    traces.close()


def test_another_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be an http:// or https:// URL.*got 'grpc://x:1'"):
        tracing.Traces("grpc://x:1", "toy")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
