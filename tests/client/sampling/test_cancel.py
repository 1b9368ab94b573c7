"""A sample that is given up is given up on the server, too, where that can be; a training step is
not undone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import httpx
import pytest

from tests.support.batches import datum
from tests.support.recording_engine import RecordingEngine
from tests.support.virtual_time import Answering, as_it_is, run, transport_to
from tests.support.wait_until import wait_until
from tinkex import AsyncServiceClient, events
from tinkex.dialects.dialect import Dialect
from tinkex.local import Server
from tinkex.sampling.results import SessionResults
from tinkex.waiting.wait import RequestState


@pytest.fixture
def answers() -> Iterator[dict[str, list[int | None]]]:
    """The statuses of the server's answers, by operation."""
    statuses: defaultdict[str, list[int | None]] = defaultdict(list)

    def note(event: events.Event) -> None:
        if isinstance(event, (events.HttpRequestStop, events.HttpRequestException)):
            statuses[event.operation].append(getattr(event, "status", None))

    events.attach(note)
    yield statuses
    events.detach(note)


@pytest.fixture
def cancelled(answers: dict[str, list[int | None]]) -> list[int | None]:
    """The calls of cancel_future."""
    return answers["cancel_future"]


def test_a_cancelled_sample_is_cancelled_on_the_server(
    connect: Callable[..., Any],
    server: Server,
    server_engine: RecordingEngine,
    cancelled: list[int | None],
) -> None:
    server_engine.gate.clear()
    with connect(server.base_url) as service:
        sampler = service.create_sampling_client(base_model="fake/base")
        running, given_up = (sampler.sample([96], 1, {"max_tokens": 1}) for _ in range(2))
        wait_until(lambda: given_up.request_id is not None)
        assert given_up.cancel()
        wait_until(lambda: len(cancelled) == 1)
        server_engine.gate.set()
        assert running.result().sequences
        with pytest.raises((CancelledError, asyncio.CancelledError)):
            given_up.result()
    assert cancelled == [200]


def test_leaving_sample_many_cancels_what_is_under_way(
    server: Server, server_engine: RecordingEngine, answers: dict[str, list[int | None]]
) -> None:
    async def work() -> None:
        async with AsyncServiceClient(base_url=server.base_url, api_key="k") as service:
            sampler = await service.create_sampling_client(base_model="fake/base")
            items = sampler.sample_many([[96]] * 10, 1, {"max_tokens": 1})
            waiting = asyncio.ensure_future(anext(items))  # type: ignore[arg-type]
            await asyncio.to_thread(wait_until, lambda: len(answers["sample"]) == 10)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            server_engine.gate.set()

    server_engine.gate.clear()
    asyncio.run(work())
    assert answers["cancel_future"] == [200] * 10, "closing the client sent them all"


def test_a_training_step_is_not_cancelled_on_the_server(
    connect: Callable[..., Any],
    server: Server,
    server_engine: RecordingEngine,
    cancelled: list[int | None],
) -> None:
    server_engine.gate.clear()
    with connect(server.base_url) as service:
        trainer = service.create_lora_training_client("fake/base", rank=4)
        step = trainer.forward_backward([datum(96)], "cross_entropy")
        wait_until(lambda: step.request_id is not None)
        assert step.cancel()
        server_engine.gate.set()
    assert cancelled == []


@pytest.mark.parametrize(("cancels", "told"), [(True, 100), (False, 0)])
def test_cancellations_are_limited_as_the_server_says(cancels: bool, told: int) -> None:
    under_way = most = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        if request.url.path.endswith("retrieve_future"):
            await asyncio.sleep(30)
            return httpx.Response(408)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return httpx.Response(200, json={})

    async def work() -> None:
        server = Answering(answer)
        results = SessionResults(
            transport_to(server, dialect=Dialect(cancels=cancels, cancels_at_once=16))
        )
        states = [RequestState("sample", f"r{number}") for number in range(100)]
        tasks = [
            asyncio.ensure_future(results.for_sampler("s").wait_for(state, number, as_it_is))
            for number, state in enumerate(states)
        ]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        started = results._transport.clock.now()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert results._transport.clock.now() == started, "nobody waits for the server"
        await results.close()
        assert (
            sum(request.url.path.endswith("cancel_future") for request in server.requests) == told
        )

    run(work())
    assert most <= 16


def test_a_server_that_does_not_answer_holds_up_nothing() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1e6)
        raise AssertionError

    async def work() -> None:
        results = SessionResults(transport_to(Answering(never), dialect=Dialect(cancels=True)))
        task = asyncio.ensure_future(
            results.for_sampler("s").wait_for(RequestState("sample", "r1"), 1, as_it_is)
        )
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        await results.close()
        assert results._transport.clock.now() <= 4

    run(work())
