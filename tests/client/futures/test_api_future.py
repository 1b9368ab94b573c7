"""The futures of a blocking client: waiting, cancelling, callbacks."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.wait_until import wait_until
from tinkex import (
    APIFuture,
    RequestFailedError,
    SampleResponse,
    SamplingClient,
    ServiceClient,
    TinkexError,
    WaitTimeoutError,
)
from tinkex.local import Server
from tinkex.portal import portal


@pytest.fixture
def sampler(server: Server, server_engine: RecordingEngine) -> Iterator[SamplingClient]:
    server_engine.gate.set()
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        yield service.create_sampling_client(base_model="fake/base")
    server_engine.gate.set()


def one(sampler: SamplingClient, token: int) -> APIFuture[SampleResponse]:
    return sampler.sample([token], 1, {"max_tokens": 1})


def test_a_future_can_be_awaited_on_any_event_loop(sampler: SamplingClient) -> None:
    async def main() -> list[list[int]]:
        responses = await asyncio.gather(
            *(one(sampler, token) for token in (5, 6)), one(sampler, 7).result_async(timeout=20)
        )
        return [response.sequences[0].tokens for response in responses]

    assert asyncio.run(main()) == [[5, 1], [6, 1], [7, 1]]


def test_giving_up_an_await_does_not_cancel_the_request(
    sampler: SamplingClient, server_engine: RecordingEngine
) -> None:
    server_engine.gate.clear()
    future = one(sampler, 96)

    async def main() -> None:
        with pytest.raises(WaitTimeoutError) as caught:
            await future.result_async(timeout=0.3)
        assert caught.value.wait is not None
        assert caught.value.wait.operation == "sample"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.1)

    asyncio.run(main())
    server_engine.gate.set()
    assert future.result(timeout=20).sequences


def test_every_way_of_waiting_raises_the_error(sampler: SamplingClient) -> None:
    async def main(future: APIFuture[SampleResponse]) -> None:
        with pytest.raises(RequestFailedError):
            await future
        with pytest.raises(RequestFailedError):
            await future.result_async()

    future = one(sampler, 99)
    asyncio.run(main(future))
    assert isinstance(future.exception(), RequestFailedError)
    assert isinstance(future.future().exception(), RequestFailedError)


def test_the_standard_library_can_wait_for_futures(sampler: SamplingClient) -> None:
    futures = [one(sampler, token).future() for token in (5, 6, 7)]
    done, waiting = concurrent.futures.wait(futures, timeout=20)
    assert (len(done), len(waiting)) == (3, 0)
    assert sorted(future.result().sequences[0].tokens[0] for future in done) == [5, 6, 7]


@pytest.mark.parametrize("by_standard_library", [True, False])
def test_both_ways_of_cancelling_do_the_same(
    sampler: SamplingClient, server_engine: RecordingEngine, by_standard_library: bool
) -> None:
    server_engine.gate.clear()
    future = one(sampler, 96)
    assert (future.future() if by_standard_library else future).cancel()
    wait_until(future.future().cancelled)
    assert future.done()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert not future.cancel()


def test_a_completed_future_cannot_be_cancelled(sampler: SamplingClient) -> None:
    future = one(sampler, 5)
    assert future.result(timeout=20).sequences
    assert not future.cancel()
    assert not future.future().cancel()
    assert future.result().sequences


def test_a_blocking_wait_on_the_loop_that_is_to_answer_is_refused(sampler: SamplingClient) -> None:
    async def main() -> None:
        with pytest.raises(TinkexError, match="blocking call"):
            one(sampler, 5)

    portal.shared().run(main)


def test_a_missing_result_call_is_named_in_the_error(sampler: SamplingClient) -> None:
    future = one(sampler, 5)
    with pytest.raises(AttributeError, match=r"no attribute 'sequences'.*call \.result\(\)"):
        _ = future.sequences  # type: ignore[attr-defined]
    assert future.result(timeout=20).sequences
