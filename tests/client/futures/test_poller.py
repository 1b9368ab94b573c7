"""Every form of "not yet", "failed" and "lost" that a known server uses, and polls that fail.

Time is virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from tinkex_api.api.weights import load_weights
from tinkex_api.models import LoadWeightsRequest

from tests.support.virtual_time import Answering, as_it_is, run, transport_to
from tinkex import (
    APIConnectionError,
    APIStatusError,
    BadRequestError,
    BillingError,
    Config,
    GoneError,
    InternalServerError,
    NotFoundError,
    PollSettings,
    RateLimitError,
    RequestFailedError,
    ResultLostError,
    RetrySettings,
    TinkexError,
    UnprocessableEntityError,
)
from tinkex.dialects.dialect import Dialect
from tinkex.futures.answers import Failed, Finished, Pending, ResultLost, classify, pause_after
from tinkex.futures.poller import NO_RESULT, Payload, wait_for_result
from tinkex.waiting.wait import RequestState

RESULT = {"path": "tinker://r/weights/a"}
DONE = httpx.Response(200, json=RESULT)


def poll(answers: list[Any], **settings: Any) -> tuple[Answering, Payload | Exception]:
    """The server, and the result or the error. The last answer stays."""

    def answer(request: httpx.Request) -> httpx.Response:
        given = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(given, Exception):
            raise given
        return given

    server = Answering(answer)

    async def work() -> Payload | Exception:
        try:
            return await wait_for_result(
                transport_to(server, **settings), RequestState("save_weights", "r1"), as_it_is
            )
        except TinkexError as error:
            return error

    return server, run(work())


# ---- rule 7: any shape of "not yet" ----


@pytest.mark.rule(7)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(408, {"detail": "timeout"}, id="skyrl, tinker-cloud"),
        pytest.param(
            408,
            {"error": "pending", "status_code": 408, "path": "/"},
            id="tinker-cloud, by uvicorn",
        ),
        pytest.param(
            408, {"type": "try_again", "request_id": "r1", "queue_state": "active"}, id="tinkex"
        ),
        pytest.param(408, {}, id="408 without a body"),
        pytest.param(
            200, {"type": "try_again"}, id="open-rl, twinkle, mlx-tinker, arctic, hatchery"
        ),
        pytest.param(
            200,
            {"type": "try_again", "request_id": "r1", "queue_state": "paused_capacity"},
            id="tuft, xorl, hosted",
        ),
        pytest.param(200, {"type": "try_again", "message": "not ready"}, id="verl"),
        pytest.param(
            200, {"status": "complete_metadata", "response_payload_size": 9}, id="hosted, large"
        ),
    ],
)
def test_rule_7_every_form_of_not_yet_is_polled_again(status: int, body: Mapping[str, Any]) -> None:
    assert isinstance(classify(status, body), Pending)
    server, result = poll([httpx.Response(status, json=body), DONE])
    assert result == RESULT
    assert len(server.requests) == 2


@pytest.mark.rule(7)
def test_rule_7_polls_that_come_back_fast_are_ever_farther_apart() -> None:
    server, result = poll([*[httpx.Response(408, json={})] * 10, DONE])
    assert result == RESULT
    assert [
        later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)
    ] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0])


@pytest.mark.rule(7)
def test_rule_7_a_poll_that_was_held_is_followed_by_the_next_at_once() -> None:
    async def held(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return httpx.Response(408, json={}) if len(server.times) < 3 else DONE

    server = Answering(held)
    run(wait_for_result(transport_to(server), RequestState("save_weights", "r1"), as_it_is))
    assert server.times == [0, 30, 60]


@pytest.mark.rule(7)
def test_rule_7_a_paused_queue_is_asked_every_second_or_two() -> None:
    assert [
        pause_after(polls, Pending("paused_capacity"), 0.05, 2.0) for polls in (1, 3, 9, 5000)
    ] == [1.0, 1.0, 2.0, 2.0]
    assert pause_after(0, Pending("paused_capacity"), 0.05, 2.0) == 0, "the server held it"


@pytest.mark.rule(7)
def test_rule_7_a_read_timeout_is_not_yet_and_is_followed_by_the_next_poll_at_once() -> None:
    async def late(request: httpx.Request) -> httpx.Response:
        if len(server.times) > 20:
            return DONE
        await asyncio.sleep(45)
        raise httpx.ReadTimeout("late")

    server = Answering(late)
    run(wait_for_result(transport_to(server), RequestState("save_weights", "r1"), as_it_is))
    assert server.times == [45.0 * poll for poll in range(21)]


@pytest.mark.rule(7)
@pytest.mark.parametrize(("hold", "timeout"), [(300.0, 315.0), (0.0, 45.0)])
def test_rule_7_a_poll_is_given_more_time_than_the_server_holds_it(
    hold: float, timeout: float
) -> None:
    server, _ = poll([DONE], dialect=Dialect(hold=hold))
    assert server.requests[0].extensions["timeout"]["read"] == timeout


# ---- rule 8: any shape of "failed" ----


@pytest.mark.rule(8)
@pytest.mark.parametrize(
    ("status", "body", "category"),
    [
        pytest.param(200, {"error": "no", "category": "user"}, "user", id="hosted, tinkex"),
        pytest.param(200, {"error": "no", "category": "Server"}, "server", id="twinkle, server"),
        pytest.param(200, {"error": "no", "category": "User"}, "user", id="twinkle, user"),
        pytest.param(200, {"error": "no", "category": "Application"}, "server", id="verl"),
        pytest.param(
            200,
            {"type": "request_failed", "error": "no", "category": "user_error"},
            "user",
            id="hatchery",
        ),
        pytest.param(
            200, {"error": "no", "category": "execution_error"}, "server", id="mlx-tinker"
        ),
        pytest.param(
            200, {"error": "no", "category": "something new"}, "unknown", id="a new category"
        ),
        pytest.param(200, {"error_message": "no"}, "unknown", id="error_message"),
        pytest.param(
            200, {"type": "request_failed", "message": "no"}, "unknown", id="no error field"
        ),
        pytest.param(400, {"detail": "no"}, "user", id="skyrl, tinker-cloud"),
        pytest.param(
            400,
            {"error": "no", "status_code": 400, "path": "/"},
            "user",
            id="tinker-cloud, by uvicorn",
        ),
        pytest.param(
            400, {"type": "RequestFailedResponse", "error_message": "no"}, "user", id="open-rl"
        ),
        pytest.param(422, {"detail": "no"}, "unknown", id="tuft, engine fault"),
        pytest.param(409, {"detail": "no"}, "unknown", id="tuft, order"),
    ],
)
def test_rule_8_every_form_of_a_failure_is_raised(
    status: int, body: Mapping[str, Any], category: str
) -> None:
    assert classify(status, body) == Failed("no", category)  # type: ignore[arg-type]
    server, error = poll([httpx.Response(status, json=body)])
    assert isinstance(error, RequestFailedError)
    assert (error.category, error.request_id, error.operation) == (category, "r1", "save_weights")
    assert len(server.requests) == 1, "it is final"


@pytest.mark.rule(8)
@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (httpx.Response(400), BadRequestError, 3),
        (httpx.Response(400, text="<html>no</html>"), BadRequestError, 1),
        (
            httpx.Response(422, json={"detail": [{"loc": ["body"], "msg": "no"}]}),
            UnprocessableEntityError,
            1,
        ),
        (httpx.Response(401, json={"detail": "no"}), APIStatusError, 1),
        (httpx.Response(403, json={"detail": "no"}), APIStatusError, 1),
        (httpx.Response(404, json={"detail": "no"}), NotFoundError, 1),
        (httpx.Response(410, json={"detail": "no"}), GoneError, 1),
        (httpx.Response(500), InternalServerError, 10),
        (httpx.ConnectError("no"), APIConnectionError, 10),
        (httpx.ReadError("no"), APIConnectionError, 10),
    ],
    ids=str,
)
def test_rule_8_only_passing_failures_are_retried(
    answer: Any, kind: type[Exception], tries: int
) -> None:
    server, error = poll([answer])
    assert isinstance(error, kind)
    assert len(server.requests) == tries


def test_failures_in_a_row_are_counted_not_failures_in_all() -> None:
    server, result = poll([*[httpx.Response(500), httpx.Response(408, json={})] * 30, DONE])
    assert result == RESULT
    assert len(server.requests) == 61


@pytest.mark.parametrize(
    ("status", "kind", "setting", "seconds"),
    [
        (402, BillingError, "max_billing_pause", 600.0),
        (429, RateLimitError, "max_rate_limited", 600.0),
    ],
)
def test_passing_failures_are_retried_until_the_configured_limit(
    status: int,
    kind: type[Exception],
    setting: str,
    seconds: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, error = poll(
        [httpx.Response(status, json={"detail": "no"})], retry=RetrySettings(**{setting: seconds})
    )
    assert isinstance(error, kind)
    assert seconds <= server.times[-1] <= seconds + 60
    assert str(status) in caplog.text
    if status == 402:
        assert {
            later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)
        } == {5.0}


def test_a_server_that_comes_back_is_waited_for() -> None:
    server, result = poll(
        [*[httpx.Response(402, json={"detail": "no"})] * 100, httpx.Response(503), DONE]
    )
    assert result == RESULT
    assert len(server.requests) == 102


@pytest.mark.rule(8)
@pytest.mark.parametrize("repeatable", [True, False])
def test_rule_8_a_success_that_says_error_and_reason_is_a_refusal(repeatable: bool) -> None:
    server = Answering(
        lambda request: httpx.Response(200, json={"error": "not loaded", "reason": "no such path"})
    )
    request = load_weights.request(body=LoadWeightsRequest("p", False, model_id="m", seq_id=1))
    with pytest.raises(BadRequestError, match="not loaded: no such path"):
        run(transport_to(server).send(request, repeatable=repeatable))


# ---- rule 9: a result may be given once ----


@pytest.mark.rule(9)
@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json={"error": "gone", "seen_before": True}),
        httpx.Response(200, json={"error": "the result was already retrieved"}),
        httpx.Response(404, json={"detail": "unknown"}),
        httpx.Response(410, json={"detail": "expired"}),
    ],
    ids=["verl, field", "words", "404", "410"],
)
def test_rule_9_a_result_that_is_lost_has_an_error_by_which_a_sample_can_be_asked_for_again(
    answer: httpx.Response,
) -> None:
    server, error = poll([answer])
    assert isinstance(error, NO_RESULT)
    assert len(server.requests) == 1


@pytest.mark.rule(9)
def test_rule_9_every_form_of_a_lost_result_is_recognised() -> None:
    assert classify(200, {"error": "x", "seen_before": True}) == ResultLost("x")
    assert classify(200, {"metrics": {}}) == Finished({"metrics": {}})


class Stalled(httpx.AsyncByteStream):
    """A body that does not come."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{"
        raise httpx.ReadTimeout("stalled")


@pytest.mark.rule(9)
@pytest.mark.parametrize(("once", "kind", "polls"), [(True, ResultLostError, 1), (False, dict, 2)])
def test_rule_9_a_result_that_broke_off_is_lost_only_where_it_is_given_once(
    once: bool, kind: type[Any], polls: int
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if len(server.requests) == 1:
            return httpx.Response(200, stream=Stalled())
        return DONE

    server = Answering(answer)

    async def work() -> Any:
        try:
            return await wait_for_result(
                transport_to(server, dialect=Dialect(results_once=once)),
                RequestState("save_weights", "r1"),
                as_it_is,
            )
        except ResultLostError as error:
            return error

    assert isinstance(run(work()), kind)
    assert len(server.requests) == polls


def test_poll_and_retry_are_two_settings() -> None:
    settings = Config(
        base_url="http://x", poll=PollSettings(max_wait=5.0), retry=RetrySettings(max_attempts=2)
    )
    server, error = poll([httpx.Response(500)], retry=settings.retry, poll=settings.poll)
    assert isinstance(error, InternalServerError)
    assert len(server.requests) == 2
