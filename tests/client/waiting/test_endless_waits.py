"""The ways in which, as public threads tell, other clients wait without end and say nothing. Here
each says so within 15 s, and ends.

Hours are of virtual time. What only a socket can do is done by one, with bounds of parts of a
second.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from tinkex_api.api.server import health

from tests.support.blocked_loop import hold_up_the_loop
from tests.support.fault_server import Fault, answer, fault_server, never
from tests.support.virtual_time import Answering, VirtualClock, as_it_is, run, transport_to
from tinkex import (
    APIConnectionError,
    APITimeoutError,
    Config,
    InternalServerError,
    PollSettings,
    RateLimitError,
    RetrySettings,
    TinkexError,
    WaitTimeoutError,
)
from tinkex.futures.poller import wait_for_result
from tinkex.sampling.results import SessionResults
from tinkex.session.session import Session
from tinkex.transport.transport import Transport
from tinkex.waiting import stalls
from tinkex.waiting.wait import RequestState

TRY_AGAIN = httpx.Response(
    200, json={"type": "try_again", "request_id": "r1", "queue_state": "active"}
)
PAUSED = httpx.Response(
    200,
    json={
        "type": "try_again",
        "queue_state": "paused_capacity",
        "queue_state_reason": "no free slot",
    },
)
RESULT = httpx.Response(200, json={"sequences": []})


def first_line(caplog: pytest.LogCaptureFixture) -> str:
    return next(
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    )


def ages(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [int(age) for age in re.findall(r"has waited (\d+) s for", caplog.text)]


def awaited(server: Answering) -> TinkexError:
    """The error in which waiting for a result of this server ends."""
    with pytest.raises(TinkexError) as caught:
        run(wait_for_result(transport_to(server), RequestState("sample", "r1"), as_it_is))
    return caught.value


async def held(response: httpx.Response, seconds: float) -> httpx.Response:
    await asyncio.sleep(seconds)
    return response


@pytest.mark.rule(7)
@pytest.mark.parametrize(
    ("name", "hold", "response", "whose", "most_polls"),
    [
        ("try_again for ever", 30, TRY_AGAIN, "computation", 245),
        (
            "an unknown id that is answered try_again for ever, at once",
            0,
            TRY_AGAIN,
            "computation",
            3700,
        ),
        (
            "408 for ever, at once",
            0,
            httpx.Response(408, json={"detail": "timeout"}),
            "computation",
            3700,
        ),
        ("paused_capacity for hours", 0, PAUSED, "queue", 3700),
    ],
)
def test_a_server_that_always_answers_not_yet_ends_in_a_timeout(
    caplog: pytest.LogCaptureFixture,
    name: str,
    hold: float,
    response: httpx.Response,
    whose: str,
    most_polls: int,
) -> None:
    server = Answering(lambda request: held(response, hold) if hold else response)
    error = awaited(server)
    assert isinstance(error, WaitTimeoutError)
    assert error.wait is not None
    assert (error.waited, error.wait.main_owner) == (pytest.approx(7200), whose)
    assert len(server.requests) <= most_polls
    assert ages(caplog)[:5] == [10, 20, 40, 80, 160]
    assert len(ages(caplog)) < 25
    if response is PAUSED:
        assert "the server's queue; queue_state paused_capacity (no free slot)" in first_line(
            caplog
        )


@pytest.mark.rule(7)
def test_a_poll_that_is_never_answered_ends_in_a_timeout(caplog: pytest.LogCaptureFixture) -> None:
    async def half_open(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("")

    error = awaited(Answering(half_open))
    assert isinstance(error, WaitTimeoutError)
    assert error.wait is not None
    assert (error.wait.main_owner, error.wait.last_status, error.fault) == (
        "network",
        None,
        "network",
    )
    assert ages(caplog)[0] == 10
    assert "the last poll was not answered in time; last HTTP status none" in caplog.text


def test_endless_5xx_on_polls_end_in_an_error(caplog: pytest.LogCaptureFixture) -> None:
    server = Answering(lambda request: httpx.Response(502))
    error = awaited(server)
    assert isinstance(error, InternalServerError)
    assert error.wait is not None
    assert error.wait.main_owner == "network"
    assert len(server.requests) == 10
    assert "last HTTP status 502" in first_line(caplog)


def test_a_base_model_samples_while_an_adapter_never_does(caplog: pytest.LogCaptureFixture) -> None:
    def by_sampler(request: httpx.Request) -> httpx.Response:
        return RESULT if orjson.loads(request.content)["request_id"].startswith("base") else PAUSED

    async def work() -> None:
        results = SessionResults(transport_to(Answering(by_sampler)))
        adapter = asyncio.ensure_future(
            results.for_sampler("adapter").wait_for(
                RequestState("sample", "adapter-1"), 0, as_it_is
            )
        )
        for number in range(100):
            await results.for_sampler("base").wait_for(
                RequestState("sample", f"base-{number}"), number, as_it_is
            )
            await asyncio.sleep(10)
        adapter.cancel()

    run(work())
    assert len(ages(caplog)) >= 6
    assert all("adapter-1" in line for line in caplog.text.splitlines() if "has waited" in line)


@pytest.mark.parametrize(
    ("status", "kind", "whose"),
    [(503, InternalServerError, "network"), (429, RateLimitError, "queue")],
    ids=["503", "429"],
)
def test_endless_429_or_503_on_a_submit_ends_in_an_error(
    caplog: pytest.LogCaptureFixture, status: int, kind: type[TinkexError], whose: str
) -> None:
    server = Answering(lambda request: httpx.Response(status))
    with pytest.raises(kind) as caught:
        run(transport_to(server, retry=RetrySettings(max_attempts=1000)).send(health.request()))
    assert caught.value.wait is not None
    assert caught.value.wait.main_owner == whose
    assert len(server.requests) < 100
    assert ages(caplog)[0] == 10


def test_an_unanswered_heartbeat_blocks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def half_open(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("session_heartbeat"):
            await asyncio.sleep(request.extensions["timeout"]["read"])
            raise httpx.ReadTimeout("")
        return httpx.Response(200, json={"session_id": "s"})

    async def work() -> None:
        session = await Session.begin(transport_to(Answering(half_open)))
        await asyncio.sleep(1000)
        assert await session.transport.send(health.request()), "all else goes on"
        await session.lifecycle.finish("success")

    run(work())
    assert re.findall(r"no heartbeat has succeeded for (\d+) s", caplog.text) == [
        "120",
        "240",
        "480",
        "960",
    ]


# ---- over a socket ----

QUICK = {
    "timeout": 0.2,
    "poll": PollSettings(request_timeout=0.2, max_wait=1.0),
    "retry": RetrySettings(max_attempts=3, base_delay=0.01, max_wait=1.0),
}


def ended(fault: Fault, work: Callable[[Transport], Any]) -> TinkexError:
    """The error in which `work` ends."""

    async def run_it() -> TinkexError:
        async with fault_server(fault) as base_url:
            transport = Transport(Config(base_url=base_url, api_key="k", **QUICK))
            try:
                with pytest.raises(TinkexError) as caught:
                    await work(transport)
            finally:
                await transport.aclose()
        return caught.value

    return asyncio.run(run_it())


def submit(transport: Transport) -> Any:
    return transport.send(health.request())


def result(transport: Transport) -> Any:
    return wait_for_result(transport, RequestState("sample", "r1"), as_it_is)


async def half_open(path: str, writer: asyncio.StreamWriter) -> None:
    await never()


async def reset(path: str, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def stall_within_the_body(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
        b'1000\r\n\r\n{"sequences"'
    )
    await writer.drain()
    await never()


async def never_end_the_body(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{"
    )
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "work", "kind", "words"),
    [
        (half_open, submit, APITimeoutError, "gave no answer in time"),
        (half_open, result, WaitTimeoutError, "within 1 s"),
        (reset, submit, APIConnectionError, "closed the connection"),
        (reset, result, APIConnectionError, "closed the connection"),
        (stall_within_the_body, submit, APIConnectionError, "gave no answer in time"),
        (stall_within_the_body, result, APIConnectionError, "gave no answer in time"),
        (never_end_the_body, submit, WaitTimeoutError, "within 1 s"),
        (never_end_the_body, result, WaitTimeoutError, "within 1 s"),
    ],
)
def test_a_silent_connection_ends_in_an_error(
    fault: Fault, work: Callable[[Transport], Any], kind: type[TinkexError], words: str
) -> None:
    error = ended(fault, work)
    assert isinstance(error, kind)
    assert words in str(error)


def test_a_half_open_socket_is_told_from_a_long_computation() -> None:
    error = ended(half_open, result)
    assert error.wait is not None
    assert error.wait.main_owner == "network"
    assert error.fault == "network"


async def one_result(path: str, writer: asyncio.StreamWriter) -> None:
    await answer(writer, orjson.dumps({"type": "try_again"}))


def test_a_blocked_event_loop_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "PACE", stalls.Pace(beat=0.02, late=0.1))

    async def with_a_slow_reward(transport: Transport) -> None:
        waiting = asyncio.ensure_future(result(transport))
        await asyncio.sleep(0.1)
        hold_up_the_loop(1.2)  # as a reward function does that is not asynchronous
        await waiting

    error = ended(one_result, with_a_slow_reward)
    assert isinstance(error, WaitTimeoutError)
    assert error.wait is not None
    assert (error.wait.main_owner, error.fault) == ("program", "user")
    assert "in hold_up_the_loop" in str(error)


def test_a_long_blocked_event_loop_is_reported_by_another_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        watch = stalls.running_loop_watch()
        watch.hold()
        watch._last_beat -= 12  # as if it had stood still for so long
        await asyncio.to_thread(watch.check)
        watch.release()

    asyncio.run(work())
    assert "the event loop has been blocked for 12 s by" in first_line(caplog)


def test_waits_use_the_clock_of_virtual_time() -> None:
    async def work() -> float:
        clock = VirtualClock()
        await clock.sleep(3600)
        return clock.now()

    assert run(work()) == 3600
