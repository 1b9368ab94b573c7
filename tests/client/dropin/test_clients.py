"""The clients of the drop-in do what programs for the official SDK expect of them."""

from __future__ import annotations

import asyncio
import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, as_completed, wait
from inspect import iscoroutinefunction
from typing import Any

import httpx
import pytest

import tinkex
from tests.support.recording_engine import RecordingEngine
from tests.support.scripted_client import PROMISE, SAMPLE, scripted_sampler
from tinkex.config import HOSTED_BASE_URL, as_retry_settings
from tinkex.dialects.table import DIALECTS
from tinkex.dropin import console
from tinkex.dropin.clients import (
    AdminClient,
    BackcompatSamplingClientFuture,
    BackcompatTrainingClientFuture,
    RestClient,
    SamplingClient,
    ServiceClient,
    TrainingClient,
)
from tinkex.dropin.futures import APIFuture, AwaitableConcurrentFuture
from tinkex.dropin.retries import RetryConfig, is_retryable_status_code
from tinkex.dropin.types import QueueState
from tinkex.local import Server
from tinkex.portal import portal
from tinkex.service import AsyncServiceClient

MODEL = "fake/base"
PARAMS = tinkex.SamplingParams(max_tokens=2)
PROMPT = tinkex.ModelInput.from_ints([1, 2])


@pytest.fixture
def service(server: Server, server_engine: RecordingEngine) -> Iterator[ServiceClient]:
    server_engine.gate.set()
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        yield service


@pytest.fixture
def rest(server: Server) -> Iterator[RestClient]:
    with RestClient(base_url=server.base_url, api_key="tml-x") as rest:
        yield rest


def test_making_a_client_gives_a_future_which_is_the_client_too(service: ServiceClient) -> None:
    future = service.create_lora_training_client(MODEL, 8)
    assert isinstance(future, BackcompatTrainingClientFuture)
    assert isinstance(future, TrainingClient)
    assert isinstance(future, APIFuture)
    trainer = future.result(timeout=60)
    assert type(trainer) is TrainingClient
    assert future.model_id == trainer.model_id
    assert trainer.result() is trainer
    assert future.future().result(0) is trainer

    async def main() -> None:
        assert await future is trainer
        assert await future.result_async() is await future.coroutine() is trainer

    asyncio.run(main())


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event for which the creation of a training client waits."""
    event, create = threading.Event(), AsyncServiceClient.create_lora_training_client

    async def wait_and_create(self: AsyncServiceClient, *args: Any) -> Any:
        while not event.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        return await create(self, *args)

    monkeypatch.setattr(AsyncServiceClient, "create_lora_training_client", wait_and_create)
    return event


def test_a_client_is_made_while_the_caller_goes_on(
    service: ServiceClient, gate: threading.Event
) -> None:
    future = service.create_lora_training_client(MODEL, 8)
    assert repr(future) == "<BackcompatTrainingClientFuture done=False>"
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    threading.Timer(0.1, gate.set).start()
    saved = future.save_state("a")  # waits for the client
    assert saved.result().path.startswith("tinker://")
    assert future.base_model == MODEL


def test_a_loop_that_waits_for_a_client_does_not_stand_still(
    service: ServiceClient, gate: threading.Event
) -> None:
    async def main() -> TrainingClient:
        asyncio.get_running_loop().call_later(0.05, gate.set)
        return await service.create_lora_training_client(MODEL, 8)

    assert asyncio.run(main()).base_model == MODEL


def test_why_a_client_could_not_be_made_is_told_by_its_future(service: ServiceClient) -> None:
    future = service.create_lora_training_client("nobody/nothing", 8)
    with pytest.raises(tinkex.APIStatusError, match="nobody/nothing"):
        future.result()
    with pytest.raises(tinkex.APIStatusError, match="nobody/nothing"):
        future.forward([], "cross_entropy")


def test_wrong_arguments_are_refused_at_once(service: ServiceClient, rest: RestClient) -> None:
    """The official SDK does the same, so that programs catch the error where they call."""
    for call in (
        service.create_sampling_client,
        lambda: service.create_lora_training_client(
            MODEL, train_mlp=False, train_attn=False, train_unembed=False
        ),
        lambda: service.copy_weights("tinker://a/weights/b"),
        lambda: rest.get_training_run_by_tinker_path("no path"),
        lambda: rest.get_external_weights_urls("tinker://a/weights/b"),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            call()
    nowhere = RestClient(base_url="http://127.0.0.1:9", api_key="tml-x")
    for _ in range(20):
        with pytest.raises(ValueError, match="no path"):
            nowhere.get_training_run_by_tinker_path("no path")
        with pytest.raises(ValueError, match="no path"):
            nowhere.delete_checkpoint_from_tinker_path("no path")
    for call in (
        lambda: service.create_lora_training_client(MODEL, ranks=2),
        lambda: rest.list_training_runs(limits=2),
        service.create_lora_training_client(MODEL, 8).optim_step,
    ):
        with pytest.raises(TypeError, match=r"\w"):
            call()


def test_samplers_are_of_the_drop_in_wherever_they_come_from(service: ServiceClient) -> None:
    trainer = service.create_lora_training_client(MODEL, 8).result()
    path = trainer.save_weights_for_sampler("a").result().path
    futures = [
        trainer.save_weights_and_get_sampling_client(name="a"),
        trainer.create_sampling_client(path),
        service.create_sampling_client(path),
        service.create_sampling_client(base_model=MODEL, retry_config=RetryConfig()),
        SamplingClient.create(service, base_model=MODEL),
    ]
    for future in futures:
        assert isinstance(future, BackcompatSamplingClientFuture)
        assert isinstance(future, SamplingClient)
        sampler = future.result()
        assert type(sampler) is SamplingClient
        assert sampler.sample(PROMPT, 1, PARAMS).result().sequences
        assert future.sample(PROMPT, 1, PARAMS).result().sequences
        for given in (sampler, future):
            copy = pickle.loads(pickle.dumps(given))
            assert type(copy) is SamplingClient
            assert copy.sample(PROMPT, 1, PARAMS).result().sequences
            copy.close()
        handle = SamplingClient.from_sampler_handle(sampler.get_sampler_handle(), api_key="tml-x")
        assert type(handle) is SamplingClient
        handle.close()


def test_several_clients_are_made_at_once_in_an_event_loop(service: ServiceClient) -> None:
    async def main() -> list[TrainingClient]:
        return await asyncio.gather(
            *(service.create_lora_training_client(MODEL, 8) for _ in range(3))
        )

    assert len({trainer.model_id for trainer in asyncio.run(main())}) == 3


def test_calls_of_the_rest_client_are_futures(service: ServiceClient, rest: RestClient) -> None:
    trainer = service.create_lora_training_client(MODEL, 8).result()
    saved = trainer.save_state("a").result()
    run = trainer.model_id
    assert isinstance(rest.list_training_runs(), APIFuture)
    assert rest.get_training_run(run).result().base_model == MODEL
    assert rest.set_checkpoint_ttl_from_tinker_path(saved.path, 60).result() is None
    assert service.create_rest_client().get_training_run(run).result(60).base_model == MODEL
    with pytest.raises(tinkex.NotFoundError):
        rest.get_training_run("nobody").result()
    futures = [rest.get_training_run(run).future() for _ in range(3)]
    assert len(wait(futures, 60).done) == 3

    async def main() -> None:
        one, two = await asyncio.gather(rest.get_training_run(run), rest.list_checkpoints(run))
        assert one.training_run_id == run
        assert [checkpoint.tinker_path for checkpoint in two.checkpoints] == [saved.path]

    asyncio.run(main())


def test_the_calls_of_an_organization(server: Server, rest: RestClient) -> None:
    with AdminClient(base_url=server.base_url, api_key="tml-x") as admin:
        assert isinstance(admin.get_audit_log().result(), tinkex.AuditLogResponse)
    with pytest.warns(FutureWarning, match=r"use AdminClient\.get_audit_log"):
        assert rest.get_audit_log().result().entries is not None


def test_methods_that_await_their_twin(service: ServiceClient, rest: RestClient) -> None:
    """Each `…_async` method awaits the future of the method without it, and is deprecated."""

    async def main() -> None:
        trainer = await service.create_lora_training_client_async(MODEL, 8)
        assert type(trainer) is TrainingClient
        sampler = await trainer.save_weights_and_get_sampling_client_async()
        assert type(sampler) is SamplingClient
        assert (await sampler.sample_async(PROMPT, 1, PARAMS)).sequences
        assert (await (await trainer.save_state_async("b"))).path.endswith("/weights/b")
        assert (await rest.get_training_run_async(trainer.model_id)).base_model == MODEL
        assert await rest.delete_checkpoint_async(trainer.model_id, "weights/b") is None

    with pytest.warns(FutureWarning) as told:
        asyncio.run(main())
    assert any("call get_training_run, whose future" in str(one.message) for one in told)


def test_the_coroutine_functions_of_a_client_are_those_of_the_official_sdk(
    service: ServiceClient,
) -> None:
    """Programs that wrap them all, for traces, find `…_async` methods alone."""
    for client in (TrainingClient, SamplingClient):
        found = [name for name in dir(client) if iscoroutinefunction(getattr(client, name))]
        assert found
        assert all(name.endswith("_async") and name != "result_async" for name in found), found
    trainer = service.create_lora_training_client(MODEL, 8).result()

    async def main() -> list[TrainingClient]:
        return [await trainer, await trainer.coroutine(), await trainer.result_async(1.0)]

    assert asyncio.run(main()) == [trainer] * 3


def test_closing_gives_a_future(server: Server) -> None:
    service = ServiceClient(base_url=server.base_url, api_key="tml-x")
    service.create_sampling_client(base_model=MODEL).result()
    assert service.close("errored", "a reason").result() is None
    with pytest.raises(RuntimeError):
        service.create_sampling_client(base_model=MODEL).result()


def test_the_arguments_of_a_service_client(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        service = ServiceClient(
            {"team": "a"},
            "project-1",
            base_url=server.base_url,
            api_key="tml-x",
            default_headers={"X-A": "1"},
            default_headers_overrides={"X-B": "2"},
            timeout=httpx.Timeout(7.0, connect=1.0),
            max_retries=2,
        )
    config = service.config
    assert config.project_id == "project-1"
    assert {**config.default_headers} == {"X-A": "1", "X-B": "2"}
    assert (config.timeout, config.max_retries) == (7.0, 2)
    trainer = service.create_lora_training_client(MODEL, 8).result()
    session = service.create_rest_client().get_session(trainer.model_id.partition(":")[0])
    assert session.result().user_metadata == {"team": "a"}
    service.close().result()
    with pytest.warns(FutureWarning, match="no parameter http_client, which is ignored"):
        ServiceClient(base_url=server.base_url, api_key="tml-x", http_client=None)


def test_what_the_clients_have_no_counterpart_of_says_so(service: ServiceClient) -> None:
    trainer = service.create_lora_training_client(MODEL, 8)
    rest = service.create_rest_client()
    for client in (service, trainer, trainer.result(), rest):
        assert client.get_telemetry() is None
    assert not hasattr(rest, "holder")
    with pytest.raises(AttributeError, match="await their futures"):
        _ = rest.holder
    with pytest.raises(AttributeError, match=r"holder has no run_coroutine_threadsafe here"):
        _ = service.holder.run_coroutine_threadsafe
    for text in (service.get_console_url(), trainer.get_console_url()):
        assert "is not the hosted service" in text


def test_the_session_behind_the_clients(service: ServiceClient, rest: RestClient) -> None:
    session_id = service.holder.get_session_id()
    trainer = service.create_lora_training_client(MODEL, 8)
    sampler = service.create_sampling_client(base_model=MODEL).result()
    for client in (service, trainer, trainer.result(), sampler):
        holder: Any = client.holder
        assert (holder.get_session_id(), holder._session_id) == (session_id, session_id)
    assert trainer.model_id in rest.get_session(session_id).result().training_run_ids
    assert rest.get_sampler(sampler._sampling_session_id).result().base_model == MODEL
    service.holder.close()
    with pytest.raises(tinkex.ClientClosedError):
        service.create_lora_training_client(MODEL, 8).result()


def test_the_future_of_a_sample_is_one_of_the_standard_library(service: ServiceClient) -> None:
    sampler = service.create_sampling_client(base_model=MODEL).result()
    futures = [sampler.sample(PROMPT, 1, PARAMS), sampler.compute_logprobs(PROMPT)]
    assert all(isinstance(one, Future) and isinstance(one, APIFuture) for one in futures)
    assert wait(futures, timeout=60).done == {*futures} == {*as_completed(futures, timeout=60)}
    seen: list[Any] = []
    for future in futures:
        future.add_done_callback(seen.append)
        assert (future.done(), future.cancelled(), future.running()) == (True, False, False)
        assert future.exception() is None
        assert not future.cancel()
        assert future.request_id is not None
    assert seen == futures

    async def main() -> list[Any]:
        future = sampler.sample(PROMPT, 1, PARAMS)
        return [await asyncio.wrap_future(future), await future, await future.result_async(1)]

    first, *others = asyncio.run(main())
    assert all(other is first for other in others)


def test_the_future_of_a_sample_that_fails_or_is_cancelled(
    service: ServiceClient, server_engine: RecordingEngine
) -> None:
    sampler = service.create_sampling_client(base_model=MODEL).result()
    future = sampler.sample(tinkex.ModelInput.from_ints([99]), 1, PARAMS)  # which is refused
    [ended] = wait([future], timeout=60).done
    assert isinstance(ended.exception(), tinkex.RequestFailedError)
    with pytest.raises(tinkex.RequestFailedError):
        ended.result()
    server_engine.gate.clear()
    waiting = sampler.sample(tinkex.ModelInput.from_ints([96]), 1, PARAMS)  # for the gate
    assert not waiting.done()
    assert waiting.cancel()
    wait([waiting], timeout=60)
    assert waiting.cancelled()
    server_engine.gate.set()


def test_the_console_of_the_hosted_service() -> None:
    home = "https://tinker.thinkingmachines.ai"
    assert console.sessions(HOSTED_BASE_URL) == f"{home}/sessions"
    assert console.session(HOSTED_BASE_URL, "s/1") == f"{home}/sessions/s%2F1"
    assert console.training_run(HOSTED_BASE_URL, "r:1") == f"{home}/training_runs/r%3A1"


def test_an_observer_is_told_the_state_by_its_name() -> None:
    told: list[tuple[QueueState, str | None]] = []
    paused = (200, b'{"type": "try_again", "queue_state": "paused_capacity"}')

    async def main() -> None:
        inner, _ = scripted_sampler(
            {"asample": [PROMISE], "retrieve_future": [paused, SAMPLE]}, DIALECTS["tinkex"]
        )
        sampler = SamplingClient(inner, portal.shared())
        sampler.on_queue_state_change = lambda state, reason: told.append((state, reason))
        await inner.sample([1], 1, {"max_tokens": 1})

    asyncio.run(main())
    assert told == [(QueueState.PAUSED_CAPACITY, None), (QueueState.ACTIVE, None)]


def test_settings_of_retries_are_read() -> None:
    assert TimeoutError in RetryConfig.retryable_exceptions  # of the class, as programs read them
    config = RetryConfig(progress_timeout=60, retry_delay_base=2, retry_delay_max=3)
    settings = as_retry_settings(config)
    assert settings is not None
    assert (settings.max_seconds, settings.base_delay, settings.max_delay) == (60, 2, 3)
    assert RetryConfig() == RetryConfig()
    assert [
        code
        for code in (200, 400, 404, 408, 409, 422, 429, 500, 503)
        if is_retryable_status_code(code)
    ] == [408, 409, 429, 500, 503]


def test_futures_of_the_programs_own() -> None:
    class Now(APIFuture[int]):
        def result(self, timeout: float | None = None) -> int:
            return 3

        async def result_async(self, timeout: float | None = None) -> int:
            return 3

        def future(self) -> Future[int]:
            raise NotImplementedError

    inner: Future[int] = Future()
    wrapped = AwaitableConcurrentFuture[int](inner)
    with pytest.raises(TimeoutError):
        wrapped.result(timeout=0)
    inner.set_result(3)

    async def main(future: Any) -> list[int]:
        return [await future, await future.coroutine(), await future.result_async(1)]

    for future in (Now(), wrapped):
        assert future.result() == 3
        assert asyncio.run(main(future)) == [3, 3, 3]
    assert wrapped.future() is inner
    with pytest.raises(TypeError, match="abstract"):
        APIFuture()  # type: ignore[abstract]
