"""The pause after a 429, and the gradual start after it. Time is virtual."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from tinkex_api.api.server import health

from tests.support.virtual_time import Answering, VirtualClock, run, transport_to
from tinkex import RateLimitError, RetrySettings
from tinkex.transport.backoff import rate_limit_pause
from tinkex.transport.rate_limit import RateLimiter
from tinkex.waiting.clock import Clock

OK = httpx.Response(200, json={"status": "ok"})


@pytest.mark.parametrize(
    ("streak", "size", "hint", "chance", "pause"),
    [
        (1, 1000, None, 0.0, 1.0),
        (1, 200_000, None, 0.0, 5.0),
        (3, 1000, None, 0.0, 4.0),
        (3, 1000, None, 0.99, 3.01),
        (9, 1000, None, 0.0, 60.0),
        (9, 200_000, 7.0, 0.5, 7.0),
    ],
)
def test_a_pause_lasts_as_long_as_the_server_says(
    streak: int, size: int, hint: float | None, chance: float, pause: float
) -> None:
    assert rate_limit_pause(streak, size, hint, chance) == pytest.approx(pause)


class Crowd:
    """Requests through one limiter, each of which takes a second, by a server that takes all."""

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter
        self.clock = VirtualClock()
        self.under_way = 0
        self.most: dict[int, int] = {}
        self.order: list[int] = []

    async def send(self, number: int) -> None:
        counted = await self.limiter.enter(self.clock)
        self.order.append(number)
        self.under_way += 1
        second = int(self.clock.now())
        self.most[second] = max(self.under_way, self.most.get(second, 0))
        await asyncio.sleep(1)
        self.under_way -= 1
        if counted:
            self.limiter.leave(succeeded=True)
        self.limiter.record_success()


def in_crowd(work: Callable[[Crowd], Coroutine[Any, Any, None]]) -> Crowd:
    crowd = Crowd(RateLimiter())
    run(work(crowd))
    return crowd


def test_after_a_pause_requests_are_admitted_gradually_and_in_order() -> None:
    async def work(crowd: Crowd) -> None:
        crowd.limiter.record_refusal(0, 10.0, crowd.clock)
        await asyncio.gather(*(crowd.send(number) for number in range(500)))
        assert crowd.limiter.is_open

    crowd = in_crowd(work)
    for first, after in ((0, 4), (4, 12), (12, 28)):
        assert sorted(crowd.order[first:after]) == list(range(first, after)), (
            "first come, first served"
        )
    assert [crowd.most[second] for second in range(10, 16)] == [4, 8, 16, 32, 64, 128]


def test_a_success_ends_the_pause() -> None:
    async def work(crowd: Crowd) -> None:
        crowd.limiter.record_refusal(0, 60.0, crowd.clock)
        waiting = asyncio.ensure_future(crowd.send(1))
        await asyncio.sleep(5)
        crowd.limiter.record_success()
        await waiting
        assert crowd.clock.now() == 6

    in_crowd(work)


def test_a_429_while_requests_are_let_in_holds_the_others_and_loses_none() -> None:
    async def work(crowd: Crowd) -> None:
        crowd.limiter.record_refusal(0, 1.0, crowd.clock)
        sending = asyncio.gather(*(crowd.send(number) for number in range(100)))
        await asyncio.sleep(2.5)
        crowd.limiter.record_refusal(0, 20.0, crowd.clock)
        crowd.limiter._streak = 0  # the successes under way say nothing of it
        await sending

    crowd = in_crowd(work)
    assert sorted(crowd.order) == list(range(100))
    assert max(crowd.most[second] for second in crowd.most if 22 <= second < 23) <= 12


def test_a_cancelled_wait_leaves_its_place_to_the_next() -> None:
    async def work(crowd: Crowd) -> None:
        crowd.limiter.record_refusal(0, 5.0, crowd.clock)
        tasks = [asyncio.ensure_future(crowd.send(number)) for number in range(20)]
        await asyncio.sleep(1)
        for task in tasks[:10]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert crowd.limiter.is_open

    assert sorted(in_crowd(work).order) == list(range(10, 20))


def test_failures_admit_no_further_requests_and_free_their_places() -> None:
    async def work(crowd: Crowd) -> None:
        limiter, clock = crowd.limiter, crowd.clock
        limiter.record_refusal(0, 1.0, clock)
        for _ in range(20):
            assert await limiter.enter(clock)
            limiter.leave(succeeded=False)
        assert not limiter.is_open

    in_crowd(work)


def test_without_a_429_nothing_is_counted() -> None:
    async def work() -> None:
        assert await RateLimiter().enter(VirtualClock()) is False

    run(work())


def test_a_pause_holds_event_loops_in_several_threads() -> None:
    limiter, clock = RateLimiter(), Clock()
    done: list[int] = []

    async def send(number: int) -> None:
        if await limiter.enter(clock):
            await asyncio.sleep(0)
            limiter.leave(succeeded=True)
        done.append(number)

    async def many(first: int) -> None:
        await asyncio.gather(*(send(first + number) for number in range(100)))

    limiter.record_refusal(0, 0.05, clock)
    threads = [
        threading.Thread(target=lambda first=first: asyncio.run(many(first)))
        for first in (0, 100, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(done) == list(range(300))


def test_a_saturated_server_is_not_flooded_and_serves_all() -> None:
    """One that takes 8 requests at a time, and refuses the others."""
    under_way = refused = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, refused
        if under_way >= 8:
            refused += 1
            return httpx.Response(429)
        under_way += 1
        await asyncio.sleep(0.2)
        under_way -= 1
        return OK

    async def work() -> None:
        transport = transport_to(Answering(answer))
        await asyncio.gather(*(transport.send(health.request()) for _ in range(400)))

    run(work())
    assert refused < 400, "less than one in each request's first try"


def test_a_429_for_ever_ends_when_the_config_says_so(caplog: pytest.LogCaptureFixture) -> None:
    server = Answering(lambda request: httpx.Response(429, json={"detail": "slow down"}))

    async def work() -> None:
        await transport_to(server, retry=RetrySettings(max_rate_limited=900.0)).send(
            health.request()
        )

    with pytest.raises(RateLimitError) as caught:
        run(work())
    assert 900 <= server.times[-1] <= 961
    assert len(server.requests) < 30
    assert caught.value.wait is not None
    assert caught.value.wait.main_owner == "queue"
    assert "the server's queue, 429 slow down" in caplog.text
