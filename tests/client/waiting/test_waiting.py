"""Whatever waits says what it waits for and whose the wait is, and ends. Time is virtual."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tinkex_api.api.server import get_client_config, health
from tinkex_api.models import ClientConfigRequest

from tests.support.batches import datum
from tests.support.blocked_loop import hold_up_the_loop
from tests.support.recording_engine import RecordingEngine
from tests.support.virtual_time import Answering, VirtualClock, as_it_is, run, transport_to
from tinkex import (
    Config,
    InternalServerError,
    PollSettings,
    RequestSkippedError,
    RetrySettings,
    WaitTimeoutError,
    events,
)
from tinkex.futures.poller import wait_for_result
from tinkex.local import Server
from tinkex.session.session import Session
from tinkex.training.submission_queue import SubmissionQueue
from tinkex.waiting import stalls
from tinkex.waiting.clock import Clock
from tinkex.waiting.schedule import LogSchedule
from tinkex.waiting.wait import RequestState, WaitBound, Waits

FOREVER = WaitBound(1e6, "nothing")


@pytest.fixture
def heard() -> Iterator[list[events.Event]]:
    """The events of a test."""
    seen: list[events.Event] = []
    events.attach(seen.append)
    yield seen
    events.detach(seen.append)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_lines_come_after_10_seconds_and_then_ever_more_rarely() -> None:
    said = LogSchedule()
    times = [second for second in range(5000) if said.due(second)]
    assert times[:7] == [10, 20, 40, 80, 160, 320, 640]
    assert {later - earlier for earlier, later in itertools.pairwise(times[7:])} == {600}


def test_a_wait_says_what_it_waits_for_and_why(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        state = RequestState("sample", "r1", "paused_capacity", "no free slot")
        with Waits(VirtualClock()).create(state, "its result", FOREVER) as wait:
            wait.set_owner("network", "no answer yet")
            await asyncio.sleep(6)
            wait.last_status, wait.tries = 200, 7
            wait.set_owner("queue")
            await asyncio.sleep(6)

    run(work())
    [line] = lines(caplog)
    for part in (
        "sample",
        "request r1",
        "10 s",
        "the server's queue",
        "paused_capacity (no free slot)",
        "last HTTP status 200",
        "try 7",
    ):
        assert part in line
    assert "network 6 s, the server's queue 4 s" in line


def test_a_short_wait_says_nothing(
    caplog: pytest.LogCaptureFixture, heard: list[events.Event]
) -> None:
    async def work() -> None:
        with Waits(VirtualClock()).create(RequestState("sample"), "its result", FOREVER):
            await asyncio.sleep(9)
        await asyncio.sleep(100)

    run(work())
    assert (lines(caplog), heard) == ([], [])


def test_a_thousand_similar_waits_share_a_log_line(
    caplog: pytest.LogCaptureFixture, heard: list[events.Event]
) -> None:
    async def work() -> None:
        waits = Waits(VirtualClock())

        async def one(number: int) -> None:
            await asyncio.sleep(number / 2000)
            with waits.create(RequestState("sample", f"r{number}"), "its result", FOREVER):
                await asyncio.sleep(15)

        async def other() -> None:
            with waits.create(RequestState("optim_step"), "its result", FOREVER):
                await asyncio.sleep(15)

        await asyncio.gather(other(), *(one(number) for number in range(1000)))

    run(work())
    first, second = lines(caplog)
    assert "optim_step has waited" in first
    assert "sample (request r0)" in second
    assert "999 more like it" in second
    assert [
        event.alike for event in heard if isinstance(event, events.Wait) and not event.over
    ] == [0, 999]


def test_the_error_at_the_bound_holds_the_facts(heard: list[events.Event]) -> None:
    async def work() -> None:
        state = RequestState("sample", "r1", "paused_capacity")
        with Waits(VirtualClock()).create(
            state, "its result", WaitBound(30.0, "Config.poll.max_wait")
        ) as wait:
            wait.set_owner("network", "no answer yet")
            await asyncio.sleep(5)
            wait.set_owner("queue")
            await asyncio.sleep(1e5)

    with pytest.raises(WaitTimeoutError) as caught:
        run(work())
    error = caught.value
    assert error.wait is not None
    assert (error.waited, error.request_id, error.fault) == (30.0, "r1", "server")
    assert dict(error.wait.seconds) == {"network": 5.0, "queue": 25.0}
    assert error.wait.main_owner == "queue"
    assert "paused_capacity" in str(error)
    assert "Config.poll.max_wait" in str(error)
    assert pickle.loads(pickle.dumps(error)).wait == error.wait
    [over] = [event for event in heard if isinstance(event, events.Wait) and event.over]
    assert over.facts.seconds == error.wait.seconds


def test_a_bound_under_10_seconds_is_kept() -> None:
    async def work() -> None:
        waits = Waits(VirtualClock())
        with waits.create(RequestState("long"), "its result", FOREVER):
            with (
                pytest.raises(WaitTimeoutError),
                waits.create(RequestState("short"), "its result", WaitBound(0.5, "x")),
            ):
                await asyncio.sleep(100)
            assert waits.clock.now() == pytest.approx(0.5)

    run(work())


def test_cancelling_a_wait_raises_a_cancellation_not_a_timeout() -> None:
    async def work() -> None:
        async def wait() -> None:
            with Waits(VirtualClock()).create(
                RequestState("sample"), "its result", WaitBound(10.0, "x")
            ):
                await asyncio.sleep(100)

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())


# ---- whose: the program's own ----


@pytest.fixture
def quick_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "PACE", stalls.Pace(beat=0.02, late=0.1, idle=0.05))


def test_a_stalled_event_loop_is_the_programs_own_and_the_line_is_named(quick_stalls: None) -> None:
    async def work() -> Any:
        with Waits(Clock()).create(RequestState("sample"), "its result", FOREVER) as wait:
            wait.set_owner("computation")
            await asyncio.sleep(0.05)
            hold_up_the_loop(0.5)
            await asyncio.sleep(0.05)
            return wait.facts()

    facts = asyncio.run(work())
    assert facts.seconds["program"] >= 0.4
    code = hold_up_the_loop.__code__
    place = f"{code.co_filename}:{code.co_firstlineno + 2} in hold_up_the_loop"
    assert facts.stalled_by == place
    assert facts.main_owner == "program"


def test_no_thread_watches_when_nothing_waits(quick_stalls: None) -> None:
    async def work() -> None:
        watch = stalls.running_loop_watch()
        watch.hold()
        assert watch.expects_beat
        watch.release()
        await asyncio.sleep(0.3)
        assert not watch.expects_beat

    asyncio.run(work())


# ---- every wait ----


def test_retries_say_what_is_awaited_and_their_last_error_holds_the_facts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Answering(lambda request: httpx.Response(503, json={"detail": "starting"}))

    async def work() -> None:
        await transport_to(server, retry=RetrySettings(max_attempts=30, max_seconds=60.0)).send(
            health.request()
        )

    with pytest.raises(InternalServerError) as caught:
        run(work())
    assert server.times[-1] <= 75
    first, *_ = lines(caplog)
    for part in (
        "health has waited 10 s for an answer",
        "network",
        "503 starting",
        "last HTTP status 503",
        "try 5",
    ):
        assert part in first
    assert caught.value.wait is not None
    assert caught.value.wait.seconds["network"] > 60
    assert "tried" in str(caught.value)


def test_the_wait_after_a_429_counts_as_the_servers_queue(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter(
        [httpx.Response(429, headers={"retry-after": "30"}), httpx.Response(200, json={})]
    )
    server = Answering(lambda request: next(answers))

    async def work() -> None:
        await transport_to(server).send(get_client_config.request(body=ClientConfigRequest("1")))

    run(work())
    assert "the server's queue" in lines(caplog)[0]
    assert "429" in lines(caplog)[0]


def test_a_poll_that_the_server_holds_long_says_so_while_it_is_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def held(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(40)
        return httpx.Response(200, json={"path": "p"})

    async def work() -> None:
        await wait_for_result(
            transport_to(Answering(held)), RequestState("save_weights", "r1"), as_it_is
        )

    run(work())
    assert (
        "save_weights (request r1) has waited 10 s for its result: computation" in lines(caplog)[0]
    )


def test_a_step_on_a_slow_server_has_one_line_however_many_calls_wait_for_their_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        clock = VirtualClock()
        waits = Waits(clock)

        async def call(awaited: str, since: float, until: float) -> None:
            await clock.sleep(since)
            with waits.create(RequestState("optim_step"), awaited, FOREVER) as wait:
                wait.set_owner("turn" if awaited == "its turn" else "computation")
                await clock.sleep(until - since)

        # three steps of 12 s, each of two calls, all sent at once
        results = [call("its result", 12.0 * step, 12.0 * step + 12.0) for step in range(3)]
        turns = [call("its turn", 0.1 * number, 6.0 * number + 6.0) for number in range(6)]
        await asyncio.gather(*results, *turns)

    run(work())
    assert len(lines(caplog)) <= 4
    assert sum("its turn" in line for line in lines(caplog)) <= 1


def test_a_wait_ends_at_its_bound_also_where_the_first_cancelling_is_swallowed() -> None:
    async def work() -> None:
        clock = VirtualClock()

        async def stubborn() -> None:
            with Waits(clock).create(
                RequestState("sample"), "its result", WaitBound(14.0, "a test")
            ):
                try:
                    await clock.sleep(1000.0)
                except asyncio.CancelledError:
                    await clock.sleep(1000.0)

        with pytest.raises(WaitTimeoutError):
            await stubborn()
        assert clock.now() < 30
        current = asyncio.current_task()
        assert current is not None
        assert not current.cancelling()

    run(work())


def test_a_training_call_that_waits_for_its_turn_says_so_and_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing is sent")

    async def work() -> None:
        line = SubmissionQueue(
            Session(transport_to(Answering(never), poll=PollSettings(max_wait=100.0)), "s"),
            "m",
        )
        async with line.turn("save_weights"):
            second = line.run("optim_step", [], as_it_is, list)
            third = line.run("optim_step", [], as_it_is, list)
            with pytest.raises(WaitTimeoutError, match="its turn"):
                await second
            with pytest.raises((WaitTimeoutError, RequestSkippedError)):
                await third

    run(work())
    assert "optim_step has waited 10 s for its turn: the calls before it" in lines(caplog)[0]


def test_the_error_of_a_blocking_result_names_the_cause_of_the_wait(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    config = Config(base_url=server.base_url, api_key="tml-x", poll=PollSettings(max_wait=0.5))
    trainer = connect(server.base_url, config=config).create_lora_training_client(
        "fake/base", rank=4
    )
    server_engine.gate.clear()
    future = trainer.forward_backward([datum(96)], "cross_entropy")
    try:
        with pytest.raises(WaitTimeoutError) as caught:
            future.result()
    finally:
        server_engine.gate.set()
    assert caught.value.wait is not None
    assert caught.value.wait.owner == "computation"
    assert caught.value.request_id == future.request_id


# ---- events ----


def test_a_listener_gets_requests_and_retries(heard: list[events.Event]) -> None:
    answers = iter([httpx.Response(503), httpx.Response(200, json={"status": "ok"})])

    async def work() -> None:
        await transport_to(Answering(lambda request: next(answers))).send(health.request())

    run(work())
    assert [event.name for event in heard] == [
        "http.request.start",
        "http.request.stop",
        "retry",
        "http.request.start",
        "http.request.stop",
    ]
    assert [event.status for event in heard if isinstance(event, events.HttpRequestStop)] == [
        503,
        200,
    ]


def test_a_listener_that_raises_is_detached_with_one_warning(
    caplog: pytest.LogCaptureFixture, heard: list[events.Event]
) -> None:
    def broken(event: events.Event) -> None:
        raise RuntimeError("oh")

    events.attach(broken)
    for _ in range(2):
        events.emit(events.HttpRequestStop, operation="x", status=200, seconds=0.1)
    assert len(heard) == 2
    assert len(lines(caplog)) == 1
