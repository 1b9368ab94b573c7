"""Events: which there are, who hears them, and what the server is told."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import orjson
import pytest
from attrs import define, field, fields
from tinkex_api.api.server import health

from tests.support.batches import batch
from tests.support.recording_engine import RecordingEngine
from tests.support.virtual_time import Answering, run, transport_to
from tinkex import (
    AdamParams,
    BadRequestError,
    Config,
    RequestFailedError,
    RetrySettings,
    TinkexError,
    events,
    telemetry,
)
from tinkex.config import HOSTED_BASE_URL
from tinkex.local import Server
from tinkex.session.reporter import Reporter

KINDS = get_args(events.Event)


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    seen: list[Any] = []
    events.attach(seen.append)
    yield seen
    events.detach(seen.append)


def of(heard: list[Any], kind: type) -> list[Any]:
    return [event for event in heard if isinstance(event, kind)]


# ---- which there are ----


def test_the_table_in_the_docs_has_every_event_with_its_fields() -> None:
    text = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    table = {name: re.findall(r"`(\w+)`", columns) for name, columns in rows}
    assert table == {kind.name: [a.name for a in fields(kind)] for kind in KINDS}


def test_a_job_emits_events(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine, heard: list[Any]
) -> None:
    server_engine.gate.set()
    service = connect(server.base_url)
    trainer = service.create_lora_training_client("fake/base", rank=4)
    step = trainer.forward_backward(batch(1), "cross_entropy")
    step.result()
    trainer.optim_step(AdamParams()).result()
    sampler = service.create_sampling_client(base_model="fake/base")
    sampler.sample([5], 2, {"max_tokens": 3}).result()
    service.close()
    steps = of(heard, events.TrainingStep)
    assert [(event.operation, event.error) for event in steps] == [
        ("forward_backward", None),
        ("optim_step", None),
    ]
    assert steps[0].request_id == step.request_id
    [sample] = of(heard, events.SamplingDone)
    assert (sample.sequences, sample.error) == (2, None)
    assert sample.tokens > 0
    assert [event.state for event in of(heard, events.Session)] == ["begun", "success"]
    starts, stops = of(heard, events.HttpRequestStart), of(heard, events.HttpRequestStop)
    assert sorted(event.operation for event in starts) == sorted(event.operation for event in stops)
    assert {"forward_backward", "sample", "create_session"} <= {event.operation for event in stops}


def test_failures_emit_events(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine, heard: list[Any]
) -> None:
    server_engine.gate.set()
    service = connect(server.base_url)
    trainer = service.create_lora_training_client("fake/base", rank=4)
    with pytest.raises(TinkexError):
        trainer.load_state("tinker://no/weights/there").result()
    with pytest.raises(TinkexError):
        service.create_sampling_client(base_model="fake/base").sample(
            [99], 1, {"max_tokens": 1}
        ).result()
    assert of(heard, events.TrainingStep)[0].error in {
        BadRequestError.__name__,
        "NotFoundError",
        RequestFailedError.__name__,
    }
    assert of(heard, events.SamplingDone)[0].error is not None
    service.__exit__(ValueError, ValueError("no"), None)
    assert of(heard, events.Session)[-1].state == "errored"


def test_an_unanswered_request_emits_an_exception_event(heard: list[Any]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def work() -> None:
        with pytest.raises(TinkexError):
            await transport_to(Answering(refuse), retry=RetrySettings(max_attempts=2)).send(
                health.request()
            )

    run(work())
    assert [event.name for event in heard] == [
        *(
            "http.request.start",
            "http.request.exception",
            "retry",
            "http.request.start",
            "http.request.exception",
        )
    ]
    failures = of(heard, events.HttpRequestException)
    assert {event.error for event in failures} == {"APIConnectionError"}


def test_each_request_of_a_redirect_and_of_a_download_begins_and_ends(heard: list[Any]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host != "elsewhere.test":
            return httpx.Response(302, headers={"Location": "http://elsewhere.test/here"})
        return httpx.Response(200, json={"status": "ok"})

    async def work() -> None:
        transport = transport_to(Answering(answer))
        await transport.send(health.request())
        async with transport.open_url("http://elsewhere.test/a", "download", with_key=False):
            pass

    run(work())
    assert [(event.name, event.operation) for event in heard] == [
        (name, operation)
        for operation in (health.request().operation, health.request().operation, "download")
        for name in ("http.request.start", "http.request.stop")
    ]


# ---- who hears them ----

ANSWERED = events.HttpRequestStop(operation="sample", status=200, seconds=0.25)


@pytest.mark.parametrize(
    ("names", "hears"),
    [
        (None, True),
        (["http.request"], True),
        (["http.request.stop"], True),
        (["http"], True),
        (["http.req"], False),
        (["retry"], False),
        ([], False),
    ],
)
def test_a_handler_gets_only_the_events_it_asked_for(names: list[str] | None, hears: bool) -> None:
    seen: list[Any] = []
    telemetry.attach(seen.append, names)
    events.publish(ANSWERED)
    telemetry.detach(seen.append)
    events.publish(ANSWERED)
    assert seen == [ANSWERED] * hears


def test_the_logger_writes_a_line_for_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tinkex.telemetry")
    handler = telemetry.attach_logger(events=["http.request.stop", "retry"])
    events.publish(ANSWERED)
    events.publish(events.HttpRequestStart(operation="sample"))
    events.publish(events.Retry(operation="sample", attempt=1, pause=0.5, reason="slow"))
    telemetry.detach(handler)
    events.publish(ANSWERED)
    assert caplog.messages == [
        "http.request.stop operation=sample status=200 seconds=0.250",
        "retry operation=sample attempt=1 pause=0.500 reason=slow",
    ]


def test_counters_and_latencies() -> None:
    metrics = telemetry.Metrics()
    for seconds in (0.01, 0.01, 0.01, 4.0):
        metrics(events.HttpRequestStop(operation="sample", status=200, seconds=seconds))
    metrics(events.HttpRequestException(operation="sample", error="ReadError", seconds=1.0))
    metrics(events.SamplingDone(request_id="r", sequences=2, tokens=7, seconds=2.0, error=None))
    metrics(
        events.TrainingStep(
            operation="optim_step", request_id="r", seconds=3.0, error="NotFoundError"
        )
    )
    assert metrics.counters == {
        "http.request.stop sample 200": 4,
        "http.request.exception sample ReadError": 1,
        "sampling.done done": 1,
        "sampling.tokens": 7,
        "training.step optim_step NotFoundError": 1,
    }
    requests = metrics.latencies["http.request sample"]
    assert (requests.count, requests.longest, requests.mean) == (5, 4.0, pytest.approx(5.03 / 5))
    assert 0.01 <= requests.quantile(0.5) <= 0.02
    assert requests.quantile(1.0) == 4.0
    assert metrics.latencies["training.step optim_step"].total == 3.0


def test_counters_are_thread_safe() -> None:
    metrics = telemetry.Metrics()
    threads = [
        threading.Thread(target=lambda: [metrics(ANSWERED) for _ in range(1000)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.latencies["http.request sample"].count == 8000


def test_a_handler_that_is_attached_while_another_is_detached_is_kept(heard: list[Any]) -> None:
    attaching = threading.Thread(target=lambda: events.attach(late.append))
    late: list[Any] = []

    class AttachesMeanwhile:
        def __call__(self, event: Any) -> None: ...

        def __ne__(self, other: object) -> bool:
            if not attaching.ident:
                attaching.start()
                attaching.join(0.1)
            return self is not other

    handler = AttachesMeanwhile()
    events.attach(handler)
    events.detach(handler)
    attaching.join()
    try:
        events.publish(ANSWERED)
        assert late == heard == [ANSWERED]
    finally:
        events.detach(late.append)


def test_without_a_listener_no_event_is_made() -> None:
    def kind(**facts: Any) -> Any:
        raise AssertionError("made")

    events.emit(kind, operation="sample")
    cost = (
        min(
            timeit.repeat(
                lambda: events.emit(events.HttpRequestStart, operation="sample"),
                number=10_000,
                repeat=5,
            )
        )
        / 10_000
    )
    assert cost < 5e-6, "a small request takes a hundred times as long"


# ---- what the server is told ----


@define
class Telemetry(httpx.AsyncBaseTransport):
    """Keeps what a server is told, and answers as it is to."""

    status: int = 200
    inner: httpx.AsyncHTTPTransport = field(factory=httpx.AsyncHTTPTransport)
    batches: list[dict[str, Any]] = field(factory=list)
    headers: list[httpx.Headers] = field(factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/telemetry"):
            return await self.inner.handle_async_request(request)
        self.batches.append(orjson.loads(request.content))
        return httpx.Response(self.status, json={"status": "accepted"}, request=request)

    async def aclose(self) -> None:
        await self.inner.aclose()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for batch in self.batches for event in batch["events"]]


@pytest.mark.parametrize(
    ("base_url", "setting", "variable", "sends"),
    [
        (HOSTED_BASE_URL, None, None, True),
        (HOSTED_BASE_URL, None, "0", False),
        (HOSTED_BASE_URL, False, None, False),
        ("http://127.0.0.1:1", None, None, False),
        ("http://127.0.0.1:1", None, "1", True),
        ("http://127.0.0.1:1", True, "0", True),
    ],
)
def test_telemetry_is_sent_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
    base_url: str,
    setting: bool | None,
    variable: str | None,
    sends: bool,
) -> None:
    if variable is not None:
        monkeypatch.setenv("TINKER_TELEMETRY", variable)
    settings = {} if setting is None else {"telemetry": setting}
    assert Config(base_url=base_url, api_key="tml-x", **settings).sends_telemetry is sends


def job(connect: Callable[..., Any], server: Server, wire: Telemetry, **settings: Any) -> Any:
    config = Config(
        base_url=server.base_url,
        http_transport=wire,
        default_headers={"X-Secret": "dh-secret"},
        **settings,
    )
    service = connect(server.base_url, config=config, api_key="tml-secret")
    trainer = service.create_lora_training_client("fake/base", rank=4)
    trainer.forward_backward(batch(1), "cross_entropy").result()
    service.create_sampling_client(base_model="fake/base").sample(
        [77], 1, {"max_tokens": 1}
    ).result()
    return service


def test_the_server_is_told_how_a_session_went(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    server_engine.gate.set()
    wire = Telemetry()
    job(connect, server, wire, telemetry=True).__exit__(ValueError, ValueError("text-secret"), None)
    kinds = [event.get("event_name", event["event"]) for event in wire.events]
    assert kinds == [
        "SESSION_START",
        "training.step",
        "sampling.done",
        "UNHANDLED_EXCEPTION",
        "SESSION_END",
    ]
    assert [event["event_session_index"] for event in wire.events] == [0, 1, 2, 3, 4]
    assert wire.events[3]["error_type"] == "ValueError"
    assert re.fullmatch(r"\d+:\d\d:\d\d(\.\d+)?", wire.events[4]["duration"])
    assert b"secret" not in orjson.dumps(wire.batches)


def test_a_server_that_is_not_hosted_is_told_nothing_by_default(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    server_engine.gate.set()
    wire = Telemetry()
    job(connect, server, wire).close()
    assert wire.batches == []


@pytest.mark.parametrize("status", [404, 422, 500])
def test_a_server_that_does_not_take_it_disturbs_nothing(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine, status: int
) -> None:
    server_engine.gate.set()
    wire = Telemetry(status)
    job(connect, server, wire, telemetry=True).close()
    assert len(wire.batches) == 1


def told(status: int, count: int, seconds: float) -> list[int]:
    """The sizes of the batches that come of so many events, over so many seconds, from a server
    that answers so.
    """
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(len(orjson.loads(request.content)["events"]))
        return httpx.Response(status, json={})

    async def work() -> None:
        reporter = Reporter(transport_to(Answering(answer)), "S1")
        reporter.begin()
        for _ in range(count):
            reporter.record(
                events.SamplingDone(request_id=None, sequences=1, tokens=1, seconds=1.0, error=None)
            )
        await asyncio.sleep(seconds)
        await reporter.finish(None)

    run(work())
    return sizes


def test_batches_and_the_queue_are_bounded() -> None:
    assert told(200, 249, 15) == [100, 100, 50, 1]
    assert sum(told(200, 12_000, 15)) == 10_000 + 1
    assert told(200, 0, 5) == [2]


def test_refused_events_are_dropped_and_a_server_without_the_call_is_not_asked_again() -> None:
    assert told(500, 249, 25) == [100, 100, 51]
    assert told(404, 249, 25) == [100]
