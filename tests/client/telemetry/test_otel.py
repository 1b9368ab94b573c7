"""Spans, metrics and traceparent by OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import httpx
from attrs import define, field
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.batches import batch
from tests.support.recording_engine import RecordingEngine
from tinkex import Config, TinkexError, events
from tinkex.local import Server
from tinkex.telemetry import otel


@define
class Wire(httpx.AsyncBaseTransport):
    inner: httpx.AsyncHTTPTransport = field(factory=httpx.AsyncHTTPTransport)
    traceparents: dict[str, str] = field(factory=dict)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.traceparents[request.url.path.rpartition("/")[2]] = request.headers.get(
            "traceparent", ""
        )
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


@define
class Observed:
    exporter: InMemorySpanExporter = field(factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(factory=InMemoryMetricReader)
    tracers: TracerProvider = field(factory=TracerProvider)

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def metrics(self) -> set[str]:
        data = self.reader.get_metrics_data()
        return {
            metric.name
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def observed() -> Iterator[Observed]:
    observed = Observed()
    observed.tracers.add_span_processor(SimpleSpanProcessor(observed.exporter))
    instrumentation = otel.instrument(observed.tracers, MeterProvider([observed.reader]))
    yield observed
    instrumentation.stop()


def job(connect: Callable[..., Any], server: Server, engine: RecordingEngine) -> Wire:
    engine.gate.set()
    wire = Wire()
    service = connect(server.base_url, config=Config(base_url=server.base_url, http_transport=wire))
    service.create_lora_training_client("fake/base", rank=4).forward_backward(
        batch(1), "cross_entropy"
    ).result()
    sampler = service.create_sampling_client(base_model="fake/base")
    sampler.sample([5], 1, {"max_tokens": 1}).result()
    with pytest.raises(TinkexError):
        sampler.sample([99], 1, {"max_tokens": 1}).result()
    service.close()
    return wire


def test_spans_and_metrics_below_the_current_span(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine, observed: Observed
) -> None:
    with observed.tracers.get_tracer("test").start_as_current_span("mine") as mine:
        wire = job(connect, server, server_engine)
    spans = observed.spans()
    assert {
        "training.step forward_backward",
        "sampling sample",
        "http.request forward_backward",
        "http.request sample",
    } <= spans.keys()
    request = spans["http.request forward_backward"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.context.trace_id == mine.get_span_context().trace_id
    trace_id, span_id = wire.traceparents["forward_backward"].split("-")[1:3]
    assert (int(trace_id, 16), int(span_id, 16)) == (
        request.context.trace_id,
        request.context.span_id,
    )
    assert {
        "tinkex.http.request.duration",
        "tinkex.training.step.duration",
        "tinkex.sampling.duration",
        "tinkex.sampling.tokens",
    } <= (observed.metrics())


def test_a_failure_is_the_spans_too(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine, observed: Observed
) -> None:
    job(connect, server, server_engine)
    failed = observed.exporter.get_finished_spans()
    assert any(
        span.name == "sampling sample" and not span.status.is_ok and "error.type" in span.attributes
        for span in failed
    )


def test_after_stop_there_are_neither_spans_nor_headers(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    observed = Observed()
    observed.tracers.add_span_processor(SimpleSpanProcessor(observed.exporter))
    otel.instrument(observed.tracers, MeterProvider([observed.reader])).stop()
    assert events.trace_headers is None
    assert set(job(connect, server, server_engine).traceparents.values()) == {""}
    assert observed.spans() == {}
