"""A cancelled call gives up its place in the order at any time, and every later call of the model
is still sent in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.batches import datum
from tests.support.virtual_time import Answering, run, transport_to
from tests.support.wait_until import wait_until
from tinkex import (
    AdamParams,
    NumpyLoss,
    PollSettings,
    RequestSkippedError,
    RetrySettings,
    StepOutcomeUnknown,
    TinkexError,
)
from tinkex.dialects.dialect import Dialect
from tinkex.session.session import Session
from tinkex.training import encoded_requests
from tinkex.training.client import AsyncTrainingClient
from tinkex.types import LoraConfig


class Server:
    """Takes its time, and writes down the numbers that came."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.numbers: list[int] = []
        self.under_way = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("retrieve_future"):
            await asyncio.sleep(self.seconds)
            return httpx.Response(200, json={"metrics": {}})
        self.numbers.append(orjson.loads(request.content)["seq_id"])
        self.under_way += 1
        assert self.under_way == 1, "two at once"
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        return httpx.Response(200, json={"request_id": f"r{self.numbers[-1]}"})


async def at_once(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def client(server: Server, **facts: Any) -> AsyncTrainingClient:
    session = Session(transport_to(Answering(server.answer), dialect=Dialect(**facts)), "s")
    return AsyncTrainingClient(session, "s:train:0", "base", LoraConfig())


MOMENTS = st.one_of(st.none(), st.integers(0, 3), st.floats(0, 30, allow_nan=False))
"""Never; after so many turns of the event loop; after so many seconds."""


@pytest.mark.rule(10)
@given(
    st.lists(MOMENTS, min_size=1, max_size=7),
    st.booleans(),
    st.sampled_from(["repeats", "refuses", "ignores", "unknown"]),
)
@settings(max_examples=60)
def test_wherever_calls_are_cancelled_the_others_are_answered_in_order(
    moments: list[int | float | None], overtakes: bool, repeats: str
) -> None:
    async def work() -> None:
        server = Server(1.0)
        trainer = client(server, overtakes=overtakes, seq_id_repeats=repeats)
        futures = [trainer.optim_step(AdamParams()) for _ in moments]

        async def cancel(index: int, moment: int | float) -> None:
            if isinstance(moment, float):
                await asyncio.sleep(moment)
            else:
                for _ in range(moment):
                    await asyncio.sleep(0)
            futures[index].cancel()

        cancels = [
            cancel(index, moment)
            for index, moment in enumerate(moments)
            if moment is not None and moment != 0
        ]
        for index, moment in enumerate(moments):
            if moment == 0:
                futures[index].cancel()  # before its first step
        await asyncio.gather(*cancels)
        last = trainer.optim_step(AdamParams())
        for future, moment in zip([*futures, last], [*moments, None], strict=True):
            if moment is None:
                await asyncio.wait_for(future.result_async(), 100)
        assert server.numbers == list(range(1, len(server.numbers) + 1)), (
            "no hole, none twice, in order"
        )

    with pytest.MonkeyPatch.context() as patch:
        # the loop's time would leap while a thread works
        patch.setattr(encoded_requests, "in_thread", at_once)
        run(work())


@pytest.mark.rule(10)
@pytest.mark.parametrize("which", range(6))
def test_one_of_six_queued_calls_can_be_cancelled(service: Any, which: int) -> None:
    trainer = service.create_lora_training_client("fake/base", rank=4)
    futures = [trainer.forward([datum(5)] * 50, "cross_entropy") for _ in range(6)]
    futures[which].cancel()
    for index, future in enumerate(futures):
        if index != which:
            assert future.result(20).loss_fn_outputs
    assert trainer.forward([datum(5)], "cross_entropy").result(20).loss_fn_outputs


@pytest.mark.rule(10)
def test_a_call_can_be_cancelled_at_once(service: Any) -> None:
    trainer = service.create_lora_training_client("fake/base", rank=4)
    trainer.forward([datum(5)], "cross_entropy").cancel()
    assert trainer.forward([datum(5)], "cross_entropy").result(20).loss_fn_outputs


def test_a_request_that_is_cancelled_while_it_is_sent_is_sent_completely() -> None:
    async def work() -> None:
        server = Server(5.0)
        trainer = client(server, seq_id_repeats="unknown")
        first = trainer.optim_step(AdamParams())
        await asyncio.sleep(2.0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await trainer.optim_step(AdamParams())
        assert server.numbers == [1, 2]

    run(work())


@pytest.mark.rule(10)
@pytest.mark.parametrize("wait", [False, True])
def test_after_a_refusal_that_nobody_has_looked_at_nothing_is_applied(
    connect: Callable[..., Any], server: Any, server_engine: Any, wait: bool
) -> None:

    server_engine.gate.set()
    trainer = connect(server.base_url).create_lora_training_client("fake/base", rank=4)
    good = trainer.forward_backward([datum(5)], "cross_entropy")
    refused = trainer.forward_backward([datum(5)], "no_such_loss")
    if wait:
        good.result(20)
        wait_until(refused.done, 20)
    with pytest.raises(RequestSkippedError):
        trainer.optim_step(AdamParams()).result(20)
    assert server_engine.count("optim_step", trainer.model_id) == 0
    with pytest.raises(TinkexError):
        refused.result(20)
    trainer.optim_step(AdamParams()).result(20)
    assert server_engine.count("optim_step", trainer.model_id) == 1


def test_a_loss_of_the_users_that_raises_is_a_refusal_too(service: Any, server_engine: Any) -> None:

    def broken(data: Any, logprobs: Any) -> Any:
        raise ValueError("mine")

    trainer = service.create_lora_training_client("fake/base", rank=4)
    failed = trainer.forward_backward_custom([datum(5)], NumpyLoss(broken))
    wait_until(failed.done, 20)
    skipped = trainer.optim_step(AdamParams())
    wait_until(skipped.done, 20)
    with pytest.raises(ValueError, match="mine"):
        failed.result(20)
    with pytest.raises(RequestSkippedError):
        skipped.result(20)
    trainer.optim_step(AdamParams()).result(20)
    assert server_engine.count("optim_step", trainer.model_id) == 1


def test_a_train_step_on_a_silent_server_has_an_unknown_outcome_and_waits_for_no_turn() -> None:

    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1e6)
        raise AssertionError

    async def work() -> None:
        transport = transport_to(
            Answering(never), retry=RetrySettings(max_wait=100.0), poll=PollSettings(max_wait=100.0)
        )
        trainer = AsyncTrainingClient(Session(transport, "s"), "s:train:0", "base", LoraConfig())
        with pytest.raises(StepOutcomeUnknown):
            await trainer.train_step([datum(5)], "cross_entropy", AdamParams())

    run(work())
