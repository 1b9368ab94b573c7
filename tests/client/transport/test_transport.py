"""One exchange with faults: what is tried again, when, and what is raised. The clock is moved by
hand; no socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx
import pytest
from tinkex_api.api.server import get_client_config, get_server_capabilities
from tinkex_api.models import ClientConfigRequest

from tests.support.answering_server import answering, as_json
from tests.support.clocks import HandClock
from tinkex import (
    APIConnectionError,
    APIResponseValidationError,
    ClientClosedError,
    Config,
    ConflictError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
    RetrySettings,
    TinkexError,
)
from tinkex.transport.transport import Transport

REQUEST = get_client_config.request(body=ClientConfigRequest("1"))
OK = httpx.Response(200, json={"parallel_fwdbwd_chunks": True})
Answer = httpx.Response | Exception


class Script(httpx.AsyncBaseTransport):
    """Gives these answers in turn, and keeps the requests."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=answer.content, request=request
        )


def exchange(
    answers: Sequence[Answer], *, repeatable: bool = True, retry: RetrySettings | None = None
) -> tuple[Script, HandClock, object]:
    """The script, the clock, and what was returned or raised."""
    script, clock = Script(answers), HandClock()
    config = Config(
        base_url=f"http://server-{id(script)}",
        api_key="tml-secret",
        http_transport=script,
        retry=retry or RetrySettings(),
    )

    async def send() -> object:
        try:
            return await Transport(config, clock).send(REQUEST, repeatable=repeatable)
        except TinkexError as error:
            return error

    return script, clock, asyncio.run(send())


@pytest.mark.parametrize("passing", [408, 409, 500, 502, 503])
def test_a_passing_failure_is_tried_again_with_growing_pauses(passing: int) -> None:
    script, clock, result = exchange([httpx.Response(passing)] * 5 + [OK])
    assert not isinstance(result, TinkexError)
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert len({request.headers["x-idempotency-key"] for request in script.requests}) == 1


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        (404, "no such thing", NotFoundError),
        (400, "no such thing", TinkexError),
        (422, "no such thing", TinkexError),
        (409, "Checkpoint 'a' already exists", ConflictError),
    ],
)
def test_a_final_refusal_is_raised_at_once(status: int, words: str, error: type[Exception]) -> None:
    script, clock, result = exchange([httpx.Response(status, json={"detail": words})])
    assert isinstance(result, error)
    assert words in str(result)
    assert (len(script.requests), clock.sleeps) == (1, [])


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "9999"}, 0.5),
        ({"retry-after": "soon"}, 0.5),
    ],
)
def test_retry_after_takes_precedence_over_the_computed_delay(
    headers: dict[str, str], pause: float
) -> None:
    _, clock, _ = exchange([httpx.Response(503, headers=headers), OK])
    assert clock.sleeps == [pause]


@pytest.mark.parametrize(("wish", "tries"), [("false", 1), ("true", 2)])
def test_x_should_retry_takes_precedence_over_the_status(wish: str, tries: int) -> None:
    script, _, _ = exchange(
        [httpx.Response(500 if wish == "false" else 404, headers={"x-should-retry": wish}), OK]
    )
    assert len(script.requests) == tries


def test_retries_end_and_the_error_says_how_many_there_were() -> None:
    script, _, result = exchange([httpx.Response(500)] * 3, retry=RetrySettings(max_attempts=3))
    assert isinstance(result, InternalServerError)
    assert "tried 3 times" in str(result)
    assert len(script.requests) == 3


def test_retries_end_when_their_time_is_over() -> None:
    script, clock, result = exchange(
        [httpx.Response(500)] * 50, retry=RetrySettings(max_attempts=50, max_seconds=30.0)
    )
    assert isinstance(result, InternalServerError)
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert len(script.requests) == 8


@pytest.mark.rule(11)
@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (httpx.ConnectError("refused"), 2),
        (httpx.ReadError("reset"), 1),
        (httpx.ReadTimeout("late"), 1),
        (httpx.Response(500), 1),
        (httpx.Response(503), 1),
        (httpx.Response(409), 1),
        (httpx.Response(429), 2),
        (httpx.Response(425), 2),
    ],
    ids=str,
)
def test_a_request_that_must_not_be_applied_twice_is_retried_only_if_it_was_not_accepted(
    answer: Answer, tries: int
) -> None:
    script, _, result = exchange([answer, OK], repeatable=False)
    assert len(script.requests) == tries
    assert isinstance(result, TinkexError) == (tries == 1)


@pytest.mark.parametrize(
    ("error", "sent"), [(httpx.ConnectError("refused"), False), (httpx.ReadError("reset"), True)]
)
def test_an_error_tells_whether_the_request_may_have_arrived(error: Exception, sent: bool) -> None:
    _, _, result = exchange([error], repeatable=False, retry=RetrySettings(max_attempts=1))
    assert isinstance(result, APIConnectionError)
    assert result.sent is sent


def test_an_answer_of_an_unexpected_form_is_a_validation_error() -> None:
    _, _, result = exchange([httpx.Response(200, json=["no", "object"])] * 10)
    assert isinstance(result, APIResponseValidationError)


def test_no_error_holds_the_key() -> None:
    for answers in (
        [httpx.Response(500)] * 10,
        [httpx.ReadError("x")] * 10,
        [httpx.Response(409, json={"detail": "a"})] * 10,
    ):
        _, _, result = exchange(answers)
        assert isinstance(result, (InternalServerError, APIConnectionError, ConflictError))
        assert "tml-secret" not in f"{result} {result!r} {vars(result)}"


@pytest.mark.parametrize(
    ("level", "shown"), [(None, "WARNING"), ("warning", "WARNING"), ("error", "ERROR")]
)
def test_a_deprecation_notice_of_the_server_is_logged_once(
    level: str | None, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {
        "x-deprecation-note": "gone in 2027",
        **({"x-deprecation-level": level} if level else {}),
    }
    exchange(
        [
            httpx.Response(500, headers=headers),
            httpx.Response(200, json={"parallel_fwdbwd_chunks": True}, headers=headers),
        ]
    )
    [record] = [record for record in caplog.records if "gone in 2027" in record.message]
    assert (record.levelname, record.name) == (shown, "tinkex")
    assert REQUEST.operation in record.message


def both(
    answers: Sequence[Answer], work: Callable[[Transport, Transport], object]
) -> tuple[Script, HandClock]:
    """Two clients of one key on one server."""
    script, clock = Script(answers), HandClock()
    config = Config(base_url=f"http://server-{id(script)}", api_key="k", http_transport=script)

    async def run() -> None:
        await work(Transport(config, clock), Transport(config, clock))  # type: ignore[misc]

    asyncio.run(run())
    return script, clock


def test_a_429_to_one_client_holds_all_of_its_key_until_the_time_is_over() -> None:
    async def work(first: Transport, second: Transport) -> None:
        with pytest.raises(RateLimitError):
            await first.send(REQUEST, max_attempts=1)
        assert second.clock.now() == 0.0
        await second.send(get_server_capabilities.request())

    _, clock = both(
        [
            httpx.Response(429, headers={"retry-after": "7"}),
            httpx.Response(200, json={"supported_models": []}),
        ],
        work,
    )
    assert clock.sleeps == [7.0]


def test_repeated_429s_hold_ever_longer_and_a_success_ends_it() -> None:
    _, clock, _ = exchange([httpx.Response(429)] * 4 + [OK])
    assert clock.sleeps == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("sent_before", [0, 1], ids=["the first attempt", "a later attempt"])
def test_a_call_under_way_when_its_client_is_closed_says_so(sent_before: int) -> None:
    """And neither opens connections again nor raises an error of the HTTP library."""

    async def send_and_close(base_url: str) -> None:
        transport = Transport(Config(base_url=base_url, api_key="tml-secret"))
        for _ in range(sent_before):
            await transport.send(REQUEST)
        attempt = transport.send_once(REQUEST, timeout=5.0)
        await transport.aclose()
        with pytest.raises(ClientClosedError, match="before this call had ended"):
            await attempt

    with answering(lambda call: as_json({})) as server:
        asyncio.run(send_and_close(server.base_url))
