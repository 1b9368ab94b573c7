"""Spans, metrics and the header traceparent, by OpenTelemetry: the extra `otel`.

Example:
    from tinkex.telemetry import otel

    instrumentation = otel.instrument()  # with the tracer and the meter that the program has set up
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
"""The span of the HTTP request that the running task is about to send, or waits for."""


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    propagates: bool = True,
) -> Instrumentation:
    """Begins to make spans and metrics of what all clients of the process do.

    Spans are `http.request <operation>`, `training.step <operation>` and `sampling.done`, below the
    span that is current where the call was made. Metrics are the durations of these, in seconds,
    and the counts of retries and of sampled tokens.

    Args:
        tracer_provider, meter_provider: by default the program's.
        propagates: whether requests carry the header traceparent, so that the server's spans join
            these.
    """
    tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
    meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
    instrumentation = Instrumentation(
        tracer,
        {
            kind: meter.create_histogram(
                f"tinkex.{kind}.duration", unit="s", description=f"How long {words} took."
            )
            for kind, words in (
                ("http.request", "an HTTP request"),
                ("training.step", "a training call"),
                ("sampling", "a sample"),
            )
        },
        meter.create_counter("tinkex.retries", description="Requests that were to be sent again."),
        meter.create_counter("tinkex.sampling.tokens", description="Tokens that were sampled."),
    )
    events.attach(instrumentation)
    if propagates:
        events.trace_headers = _headers
    return instrumentation


@define(eq=False)
class Instrumentation:
    """A listener to events. `stop` ends it."""

    _tracer: trace.Tracer
    _durations: Mapping[str, Histogram]
    _retries: Counter
    _tokens: Counter

    def stop(self) -> None:
        """Makes no more spans and metrics, and sends no more traceparent."""
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
        if span is not None:  # it began after the listener was attached
            _request.set(None)
            _finish(span, operation, facts, error)
            span.end()

    def _past_span(
        self, kind: str, operation: str, request_id: str | None, seconds: float, error: str | None
    ) -> None:
        """Of what is over when it is heard of."""
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
