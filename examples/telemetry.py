"""OpenTelemetry: each step of training is a span of your own program, and the requests that it took
are spans below it. Here they are kept in memory; an application exports them to its collector.

Needs the extra `otel`.
"""

import os

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tinkex import AdamParams, Datum, ModelInput, ServiceClient
from tinkex.telemetry.otel import instrument


def main() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("my-program")
    instrumentation = instrument(tracer_provider=provider)
    with ServiceClient(base_url=os.environ.get("TINKER_BASE_URL", "local")) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8)
        tokens = trainer.get_tokenizer().encode("red stop")
        data = [Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})]
        for step in (1, 2, 3):
            with tracer.start_as_current_span(f"step {step}"):
                trainer.train_step(data, "cross_entropy", AdamParams(learning_rate=1e-3)).result()
    instrumentation.stop()
    show(spans.get_finished_spans())


def show(spans: tuple[ReadableSpan, ...]) -> None:
    """Prints the spans of the program, and below each one those of the client, with their time."""
    for own in spans:
        if own.instrumentation_scope.name != "my-program":
            continue
        print(f"{own.name}: {milliseconds(own):.0f} ms")
        for span in spans:
            if span.parent is not None and span.parent.span_id == own.context.span_id:
                print(f"  {span.name}: {milliseconds(span):.0f} ms")


def milliseconds(span: ReadableSpan) -> float:
    return (span.end_time - span.start_time) / 1e6


if __name__ == "__main__":
    main()
