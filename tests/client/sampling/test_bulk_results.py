"""Samples that are waited for together by retrieve_futures: against the embedded server, and
against faults in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest

import tinkex.local
from tests.support.recording_engine import RecordingEngine
from tests.support.virtual_time import Answering, as_it_is, run, transport_to
from tinkex import AuthenticationError, RequestFailedError, TinkexError, events
from tinkex.dialects.dialect import Dialect
from tinkex.futures.answers import Payload
from tinkex.local import Server
from tinkex.sampling.results import SEQ_IDS_PER_COPY, SessionResults
from tinkex.waiting.wait import RequestState
from tinkex_server.routes import server as routes


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """The operations that were sent."""
    seen: list[str] = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.HttpRequestStart):
            seen.append(event.operation)

    events.attach(note)
    yield seen
    events.detach(note)


@pytest.fixture
def bulk_server(
    server: Server, server_engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> Server:
    monkeypatch.setattr(routes.FLAGS, "sample_use_retrieve_futures", True)
    server_engine.gate.set()
    return server


def test_many_samples_are_waited_for_by_few_polls(
    connect: Callable[..., Any], bulk_server: Server, calls: list[str]
) -> None:
    with connect(bulk_server.base_url) as service:
        sampler = service.create_sampling_client(base_model="fake/base")
        futures = [sampler.sample([1 + number % 90], 1, {"max_tokens": 2}) for number in range(150)]
        assert [future.result().sequences[0].tokens[0] for future in futures] == [
            1 + number % 90 for number in range(150)
        ]
    assert calls.count("retrieve_future") == 150, (
        "one for each payload, and none to ask whether it is there"
    )
    assert 1 <= calls.count("retrieve_futures") <= 100


def test_a_sample_that_fails_has_its_own_error(
    connect: Callable[..., Any], bulk_server: Server
) -> None:
    sampler = connect(bulk_server.base_url).create_sampling_client(base_model="fake/base")
    good, bad = (
        sampler.sample([5], 1, {"max_tokens": 1}),
        sampler.sample([99], 1, {"max_tokens": 1}),
    )
    with pytest.raises(RequestFailedError, match="99 is not a token"):
        bad.result()
    assert good.result().sequences


def test_the_embedded_server_returns_results_from_before_a_restart(
    tmp_path: Any, server_engine: RecordingEngine
) -> None:
    def ended(base_url: str, cursor: int) -> Any:
        target = {
            "type": "sampling_session",
            "sampling_session_id": sampler_id,
            "cloned_sampler_id": 0,
        }
        body = {"target": target, "prev_cursor": cursor, "timeout": 5}
        return httpx.post(f"{base_url}/api/v1/retrieve_futures", json=body).json()

    server_engine.gate.set()
    with (
        tinkex.local.serve(engine=server_engine, data_dir=tmp_path) as server,
        tinkex.ServiceClient(base_url=server.base_url) as service,
    ):
        sampler = service.create_sampling_client(base_model="fake/base")
        sampler_id = sampler.sampling_session_id
        ids = [
            future.request_id
            for future in [sampler.sample([5], 1, {"max_tokens": 1}) for _ in range(3)]
            if future.result()
        ]
        first = ended(server.base_url, 0)
    with tinkex.local.serve(engine=server_engine, data_dir=tmp_path) as server:
        assert ended(server.base_url, 0) == first
        assert ended(server.base_url, 2)["completions"] == first["completions"][2:]
    # they are drawn side by side
    assert sorted(done["request_id"] for done in first["completions"]) == sorted(ids)
    assert {done["state"] for done in first["completions"]} == {"finished"}
    assert first["cursor"] == 3


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ({"type": "sampling_session", "sampling_session_id": "nope"}, 404),
        ({"type": "other", "sampling_session_id": "nope"}, 422),
        ({"type": "sampling_session", "sampling_session_id": "nope", "cloned_sampler_id": -1}, 422),
    ],
)
def test_the_embedded_server_refuses_unknown_request_ids(
    server: Server, target: dict[str, Any], status: int
) -> None:
    body = {"target": target, "prev_cursor": 0}
    assert httpx.post(f"{server.base_url}/api/v1/retrieve_futures", json=body).status_code == status


# ---- faults ----


class Bulk:
    """A server whose request `rN` ends after N seconds; `fault` may answer a bulk poll in its
    place.
    """

    def __init__(self, fault: Callable[[int], httpx.Response | None] = lambda poll: None) -> None:
        self.fault = fault
        self.polls: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.http = Answering(self.answer)
        self.transport = transport_to(self.http, dialect=Dialect(bulk_results=True))
        self.results = SessionResults(self.transport)
        self.sampler = self.results.for_sampler("s")

    async def answer(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)
        if request.url.path.endswith("retrieve_future"):
            return httpx.Response(200, json={"sequences": [], "id": body["request_id"]})
        self.polls.append(body)
        return self.fault(len(self.polls)) or await self.completions(body)

    async def completions(self, body: dict[str, Any]) -> httpx.Response:
        now = self.transport.clock.now()
        order = sorted(self.ids, key=lambda name: int(name[1:]))
        later = order[body["prev_cursor"] :]
        if later and body.get("timeout") != 0:
            await asyncio.sleep(max(0.0, int(later[0][1:]) - now))
        done = [name for name in later if int(name[1:]) <= self.transport.clock.now()]
        completions = [{"state": "finished", "request_id": name} for name in done]
        return httpx.Response(
            200, json={"cursor": body["prev_cursor"] + len(done), "completions": completions}
        )

    def wait(self, name: str, seq_id: int = 0) -> asyncio.Future[Payload]:
        self.ids.append(name)
        return asyncio.ensure_future(
            self.sampler.wait_for(RequestState("sample", name), seq_id, as_it_is)
        )

    @property
    def acknowledged(self) -> list[str]:
        return [name for poll in self.polls for name in poll.get("retrieved_request_ids", ())]


def test_fetched_results_are_acknowledged_and_an_idle_client_sends_no_polls() -> None:
    async def work() -> None:
        bulk = Bulk()
        await asyncio.gather(*(bulk.wait(f"r{number}") for number in (1, 2, 3)))
        await asyncio.sleep(3)
        polls = len(bulk.polls)
        assert sorted(bulk.acknowledged) == ["r1", "r2", "r3"]
        assert (bulk.polls[-1]["timeout"], bulk.polls[-1]["prev_cursor"]) == (0, 3)
        await asyncio.sleep(1000)
        assert len(bulk.polls) == polls
        await bulk.wait("r2000")
        assert bulk.polls[polls]["prev_cursor"] == 3, "it goes on where it was"

    run(work())


def test_samples_one_after_another_do_not_wait_for_the_poller() -> None:
    async def work() -> None:
        bulk = Bulk()
        for second in range(1, 6):
            await bulk.wait(f"r{second}")
            assert bulk.transport.clock.now() == pytest.approx(second)
        await bulk.results.close()

    run(work())


def test_a_client_that_is_closed_acknowledges_what_it_fetched_last() -> None:
    async def work() -> None:
        bulk = Bulk()
        await bulk.wait("r1")
        assert bulk.acknowledged == []
        await bulk.results.close()
        assert bulk.acknowledged == ["r1"]
        assert bulk.polls[-1]["timeout"] == 0

    run(work())


@pytest.mark.rule(9)
def test_each_copy_of_a_client_has_a_poller_of_its_own() -> None:
    async def work() -> None:
        bulk = Bulk()
        await asyncio.gather(bulk.wait("r1", 5), bulk.wait("r1", 7 * SEQ_IDS_PER_COPY + 5))
        assert {poll["target"]["cloned_sampler_id"] for poll in bulk.polls} == {0, 7}
        await bulk.results.close()

    run(work())


def test_a_poll_that_fails_is_repeated_after_a_second() -> None:
    async def work() -> None:
        bulk = Bulk(lambda poll: httpx.Response(503) if poll <= 4 else None)
        await bulk.wait("r1")
        assert bulk.http.times[:5] == [0, 1, 2, 3, 4]
        await bulk.results.close()

    run(work())


def test_a_final_refusal_fails_all_who_wait_with_its_cause() -> None:
    async def work() -> None:
        bulk = Bulk(lambda poll: httpx.Response(401, json={"detail": "no"}) if poll == 2 else None)
        waiting = [bulk.wait(f"r{number}") for number in (1, 50, 60)]
        await waiting[0]
        for name, task in zip(("r50", "r60"), waiting[1:], strict=True):
            with pytest.raises(AuthenticationError) as caught:
                await task
            assert caught.value.request_id == name
            assert isinstance(caught.value.__cause__, TinkexError)
        await bulk.results.close()

    run(work())


@pytest.mark.rule(1)
@pytest.mark.parametrize("status", [404, 405])
def test_a_server_that_lacks_the_call_is_asked_for_each_alone(status: int) -> None:
    async def work() -> None:
        bulk = Bulk(lambda poll: httpx.Response(status))
        await asyncio.gather(bulk.wait("r1"), bulk.wait("r2"))
        await bulk.wait("r3")
        assert len(bulk.polls) == 1
        await bulk.results.close()

    run(work())


@pytest.mark.rule(7)
def test_a_server_that_answers_at_once_that_nothing_is_done_is_not_stormed() -> None:
    async def work() -> None:
        empty = httpx.Response(200, json={"cursor": 0, "completions": []})
        bulk = Bulk(lambda poll: empty if bulk.transport.clock.now() < 100 else None)
        await bulk.wait("r1")
        assert 40 < len(bulk.polls) < 70
        await bulk.results.close()

    run(work())


def test_a_cancelled_wait_does_not_delay_the_others() -> None:
    async def work() -> None:
        bulk = Bulk()
        first, second = bulk.wait("r5"), bulk.wait("r9")
        await asyncio.sleep(1)
        first.cancel()
        assert await second == {"sequences": [], "id": "r9"}
        await bulk.results.close()

    run(work())
