"""OpenTelemetry spans, metrics and trace headers for clients. Requires the extra `otel`.

Example:
    from tinkex.telemetry import otel

    instrumentation = otel.instrument()  # uses the program's tracer and meter providers
    ...
    instrumentation.stop()
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar

from attrs import define
from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import Counter, Histogram, MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from tinkex import events
from tinkex._version import __version__

_SCOPE = "tinkex"
_request: ContextVar[Span | None] = ContextVar("_request", default=None)
"""The span of the HTTP request that the current task is sending or waiting for."""


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    propagates: bool = True,
) -> Instrumentation:
    """Starts to record spans and metrics of all clients in the process.

    The spans are `http.request <operation>`, `training.step <operation>` and `sampling sample`.
    They are children of the span that is current at the call. The metrics are the durations of
    these spans in seconds, and the numbers of retries and of sampled tokens.

    Args:
        tracer_provider: by default the global provider of the program.
        meter_provider: by default the global provider of the program.
        propagates: whether requests carry the trace context (by default the header `traceparent`),
            so that the server's spans join the same trace.

    Returns:
        The instrumentation, whose `stop` ends the recording.
    """
    tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
    meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
    instrumentation = Instrumentation(
        tracer,
        {
            kind: meter.create_histogram(
                f"tinkex.{kind}.duration", unit="s", description=f"The duration of {words}."
            )
            for kind, words in (
                ("http.request", "an HTTP request"),
                ("training.step", "a training call"),
                ("sampling", "a sample"),
            )
        },
        meter.create_counter("tinkex.retries", description="The number of retried requests."),
        meter.create_counter("tinkex.sampling.tokens", description="The number of sampled tokens."),
    )
    events.attach(instrumentation)
    if propagates:
        events.trace_headers = _headers
    return instrumentation


@define(eq=False)
class Instrumentation:
    """A handler of events that records spans and metrics until `stop` is called."""

    _tracer: trace.Tracer
    _durations: Mapping[str, Histogram]
    _retries: Counter
    _tokens: Counter

    def stop(self) -> None:
        """Stops recording spans and metrics and sending trace headers."""
        events.detach(self)
        if events.trace_headers is _headers:
            events.trace_headers = None

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.HttpRequestStart():
                _request.set(
                    self._tracer.start_span(f"http.request {event.operation}", kind=SpanKind.CLIENT)
                )
            case events.HttpRequestStop():
                self._end_request(
                    event.operation,
                    event.seconds,
                    {"http.response.status_code": event.status},
                    None,
                )
            case events.HttpRequestException():
                self._end_request(event.operation, event.seconds, {}, event.error)
            case events.TrainingStep():
                self._past_span(
                    "training.step", event.operation, event.request_id, event.seconds, event.error
                )
            case events.SamplingDone():
                self._past_span("sampling", "sample", event.request_id, event.seconds, event.error)
                self._tokens.add(event.tokens)
            case events.Retry():
                self._retries.add(1, {"tinkex.operation": event.operation})
            case events.QueueStateChange() | events.Wait() | events.Session():
                trace.get_current_span().add_event(event.name)

    def _end_request(
        self, operation: str, seconds: float, facts: Mapping[str, int], error: str | None
    ) -> None:
        self._durations["http.request"].record(seconds, {"tinkex.operation": operation, **facts})
        span = _request.get()
        if span is not None:  # None if the request began before the handler was attached
            _request.set(None)
            _finish(span, operation, facts, error)
            span.end()

    def _past_span(
        self, kind: str, operation: str, request_id: str | None, seconds: float, error: str | None
    ) -> None:
        """Records a span that ends now and began `seconds` ago."""
        self._durations[kind].record(seconds, {"tinkex.operation": operation})
        now = time.time_ns()
        span = self._tracer.start_span(f"{kind} {operation}", start_time=now - int(seconds * 1e9))
        _finish(span, operation, {"tinkex.request_id": request_id} if request_id else {}, error)
        span.end(now)


def _finish(span: Span, operation: str, facts: Mapping[str, str | int], error: str | None) -> None:
    span.set_attributes({"tinkex.operation": operation, **facts})
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))


def _headers() -> Mapping[str, str]:
    carrier: dict[str, str] = {}
    span = _request.get()
    propagate.inject(carrier, trace.set_span_in_context(span) if span is not None else None)
    return carrier
