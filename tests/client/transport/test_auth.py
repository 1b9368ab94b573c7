"""The key of a request: from a text, a function or a command; exchanged for a JWT where the server
says so; replaced when refused.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, field
from tinkex_api.api.server import get_client_config, get_server_capabilities
from tinkex_api.models import ClientConfigRequest

from tests.support.clocks import HandClock
from tests.support.recording_engine import RecordingEngine
from tinkex import (
    APIConnectionError,
    AuthenticationError,
    Config,
    ConfigError,
    CredentialError,
    InternalServerError,
    RetrySettings,
    TinkexError,
)
from tinkex.config import HOSTED_BASE_URL
from tinkex.dialects.dialect import Dialect
from tinkex.local import Server
from tinkex.transport.transport import Transport
from tinkex.wire import jwt

REQUEST = get_server_capabilities.request()
POST = get_client_config.request(body=ClientConfigRequest("1"))


def token(number: int, life: float = 1000.0) -> str:
    """A JWT, by the server's clock, which is not ours."""
    claims = {"sub": "user", "n": number, "iat": 5e9, "exp": 5e9 + life}
    parts = ({"alg": "none"}, claims)
    return ".".join(
        [
            *(
                base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
                for part in parts
            ),
            "sig",
        ]
    )


@define
class TokenServer(httpx.AsyncBaseTransport):
    """Gives tokens for `good`, and takes the last one alone; everything else goes to `inner`, if
    there is one.
    """

    good: set[str] = field(factory=lambda: {"tml-good"})
    life: float = 1000.0
    given: list[str] = field(factory=list)
    keys: list[str] = field(factory=list)
    """The keys of all requests except those for a token."""
    taken: str = ""
    trouble: list[int | Exception] = field(factory=list)
    """Statuses or errors that the next exchanges for a token get instead."""
    inner: httpx.AsyncBaseTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("x-api-key", "")
        await asyncio.sleep(0)  # so that others come meanwhile
        if request.url.path.endswith("/auth/token"):
            return self._exchange(key, request)
        if request.url.path.endswith("/client/config"):
            return httpx.Response(
                200, json={"pjwt_auth_enabled": True, "seq_id_repeats": "repeats"}, request=request
            )
        self.keys.append(key)
        if key != self.taken:
            words = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            return httpx.Response(
                401, headers=words, json={"detail": "invalid token"}, request=request
            )
        if self.inner is not None:
            return await self.inner.handle_async_request(request)
        return httpx.Response(200, json={"supported_models": []}, request=request)

    async def aclose(self) -> None:
        if self.inner is not None:
            await self.inner.aclose()

    def _exchange(self, key: str, request: httpx.Request) -> httpx.Response:
        trouble = self.trouble.pop(0) if self.trouble else 200
        if isinstance(trouble, Exception):
            raise trouble
        if trouble != 200 or key not in self.good:
            return httpx.Response(
                trouble if trouble != 200 else 401, json={"detail": "no token"}, request=request
            )
        self.taken = token(len(self.given), self.life)
        self.given.append(self.taken)
        return httpx.Response(200, json={"jwt": self.taken}, request=request)


EXCHANGES = Dialect(exchanges_keys=True)


def run(
    server: httpx.AsyncBaseTransport,
    work: Callable[[Transport, HandClock], Coroutine[Any, Any, Any]],
    **settings: Any,
) -> Any:
    """Returns what `work` returns, given a transport to the server and its clock."""
    defaults = {"api_key": "tml-good", "dialect": EXCHANGES, "http_transport": server}
    config, clock = Config(base_url="http://tokens", **{**defaults, **settings}), HandClock()

    async def main() -> Any:
        transport = Transport(config, clock)
        try:
            return await work(transport, clock)
        except TinkexError as error:
            return error
        finally:
            await transport.aclose()

    return asyncio.run(main())


async def send(transport: Transport, _clock: HandClock) -> Any:
    return await transport.send(REQUEST)


# ---- JWTs ----


def test_the_key_is_exchanged_once_for_all_who_wait() -> None:
    server = TokenServer()

    async def work(transport: Transport, _clock: HandClock) -> None:
        await asyncio.gather(*(transport.send(REQUEST) for _ in range(20)))

    run(server, work)
    assert (len(server.given), set(server.keys)) == (1, {server.given[0]})


def test_a_token_is_exchanged_beside_the_requests_at_half_its_life() -> None:
    server = TokenServer(life=1000)

    async def work(transport: Transport, clock: HandClock) -> None:
        for time in (0, 449, 451, 452):
            clock.time = time
            await transport.send(REQUEST)
            await asyncio.sleep(0.01)  # for what goes on beside it

    run(server, work)
    first, second = server.given
    assert server.keys == [first, first, first, first, second] or server.keys == [
        first,
        first,
        first,
        second,
    ]


def test_a_token_near_its_end_is_waited_for() -> None:
    server = TokenServer(life=1000)

    async def work(transport: Transport, clock: HandClock) -> None:
        await transport.send(REQUEST)
        clock.time = 941
        await transport.send(REQUEST)

    run(server, work)
    assert server.keys == server.given
    assert len(server.given) == 2


def test_while_no_new_token_can_be_had_the_old_one_is_used_to_its_end_and_asked_for_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = TokenServer(life=1000)

    async def work(transport: Transport, clock: HandClock) -> list[int]:
        await transport.send(REQUEST)
        server.trouble = [httpx.ConnectError("refused")] * 100
        left = []
        for time in (941, 950, 1000):
            clock.time = time
            await transport.send(REQUEST) if time < 1000 else None
            left.append(len(server.trouble))
        server.trouble = []
        await transport.send(REQUEST)
        return left

    assert run(server, work) == [99, 99, 99]
    assert server.keys == [server.given[0]] * 3 + [server.given[1]]
    assert "not exchanged" in caplog.text


@pytest.mark.parametrize(
    "trouble", [httpx.ConnectError("refused"), httpx.ReadError("reset"), 503, 429]
)
def test_a_request_that_waits_for_a_token_may_be_sent_again_even_one_that_must_not_be_applied_twice(
    trouble: int | Exception,
) -> None:
    server = TokenServer(trouble=[trouble, trouble])

    async def work(transport: Transport, clock: HandClock) -> list[float]:
        await transport.send(REQUEST, repeatable=False)
        return clock.sleeps

    assert run(server, work) == [0.5, 1.0]
    assert len(server.keys) == 1


def test_if_no_token_can_be_obtained_the_error_says_so() -> None:
    server = TokenServer(trouble=[503] * 9)
    error = run(server, send, retry=RetrySettings(max_attempts=3))
    assert isinstance(error, APIConnectionError)
    assert not error.sent
    assert "could not be exchanged for a token" in str(error)
    assert isinstance(error.__cause__, InternalServerError)


def test_a_key_that_is_not_exchanged_is_refused_for_good() -> None:
    server = TokenServer()
    error = run(server, send, api_key="tml-bad")
    assert isinstance(error, AuthenticationError)
    assert "tml-bad" not in str(error)
    assert server.keys == []


def test_a_token_that_the_server_has_withdrawn_is_replaced_and_each_request_sent_once_more() -> (
    None
):
    server = TokenServer()

    async def work(transport: Transport, clock: HandClock) -> list[float]:
        await transport.send(REQUEST)
        server.taken = ""
        await asyncio.gather(
            *(transport.send(POST, repeatable=False) for _ in range(5)),
            *(transport.send(REQUEST) for _ in range(5)),
        )
        return clock.sleeps

    assert run(server, work) == []
    assert len(server.given) == 2
    assert server.keys.count(server.given[1]) == 5


def test_a_request_is_not_sent_a_third_time() -> None:
    class Stubborn(TokenServer):
        def _exchange(self, key: str, request: httpx.Request) -> httpx.Response:
            answer = super()._exchange(key, request)
            self.taken = "another"
            return answer

    server = Stubborn()
    assert isinstance(run(server, send), AuthenticationError)
    assert len(server.keys) == len(server.given) == 2


@pytest.mark.parametrize(
    "text", ["opaque", "a.b.c", "e30.e30.e30", f"x.{base64.urlsafe_b64encode(b'[]').decode()}.y"]
)
def test_a_token_that_tells_no_end_is_kept_until_it_is_refused(text: str) -> None:
    assert jwt.lifetime(text) is None


def test_a_session_whose_tokens_are_withdrawn_goes_on(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    server_engine.gate.set()
    tokens = TokenServer(inner=httpx.AsyncHTTPTransport())
    trainer = connect(
        server.base_url,
        config=Config(
            base_url=server.base_url,
            api_key="tml-good",
            http_transport=tokens,
            feature_gates=("cancels",),
        ),
        api_key="tml-good",
    ).create_lora_training_client("fake/base", rank=4)
    for _ in range(3):
        tokens.taken = ""
        assert trainer.get_info().model_id == trainer.model_id
        assert trainer.save_state(f"s{len(tokens.given)}").result().path
    assert len(tokens.given) == 4


# ---- functions and commands ----


@define
class Keys(httpx.AsyncBaseTransport):
    """Takes one key, as it is sent."""

    good: str
    seen: list[str] = field(factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.headers.get("x-api-key", ""))
        return httpx.Response(
            200 if self.seen[-1] == self.good else 401,
            json={"supported_models": []},
            request=request,
        )


async def _later(key: str) -> str:
    await asyncio.sleep(0)
    return key


@pytest.mark.parametrize(
    "give", [lambda: "tml-f", lambda: _later("tml-f")], ids=["blocking", "asyncio"]
)
def test_a_function_gives_the_key_once(give: Callable[[], Any]) -> None:
    server, calls = Keys("tml-f"), []

    async def work(transport: Transport, _clock: HandClock) -> None:
        await asyncio.gather(*(transport.send(REQUEST) for _ in range(5)))

    assert (
        run(server, work, api_key=lambda: (calls.append(1), give())[1], dialect=Dialect()) is None
    )
    assert (server.seen, len(calls)) == (["tml-f"] * 5, 1)


def test_a_key_that_is_refused_is_fetched_anew_and_the_request_sent_once_more() -> None:
    server, keys = Keys("tml-2"), ["tml-1", "tml-2"]
    run(server, send, api_key=lambda: keys.pop(0), dialect=Dialect())
    assert server.seen == ["tml-1", "tml-2"]


def test_the_same_key_again_is_not_sent_again() -> None:
    server = Keys("tml-2")
    assert isinstance(
        run(server, send, api_key=lambda: "tml-1", dialect=Dialect()), AuthenticationError
    )
    assert server.seen.count("tml-1") == 1 + 1  # and once as a bearer's


def test_a_command_prints_the_key(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = (
        f"from pathlib import Path; p = Path({str(count)!r}); n = p.read_text() if p.exists() "
        f"else ''; p.write_text(n + 'x'); print(f'tml-{{len(n)}}')"
    )
    server = Keys("tml-1")
    run(
        server,
        send,
        api_key=None,
        credential_cmd=f'{sys.executable} -c "{script}"',
        dialect=Dialect(),
    )
    assert server.seen == ["tml-0", "tml-1"]
    assert count.read_text() == "xx"


def _raises() -> str:
    raise RuntimeError("tml-secret")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_key": _raises}, "the api_key function raised RuntimeError"),
        ({"api_key": lambda: ""}, "the api_key function gave no key"),
        ({"api_key": lambda: None}, "the api_key function gave no key"),
        ({"credential_cmd": "echo tml-secret >&2; exit 3"}, "credential_cmd ended with status 3"),
        ({"credential_cmd": "echo"}, "credential_cmd gave no key"),
        ({"credential_cmd": "echo tml-secret; echo more"}, "characters that no header can carry"),
    ],
)
def test_a_source_that_gives_no_key_is_named_and_nothing_sent(
    settings: dict[str, Any], words: str
) -> None:
    server = Keys("tml-1")
    error = run(server, send, **{"api_key": None, "dialect": Dialect(), **settings})
    assert isinstance(error, CredentialError)
    assert words in str(error)
    assert "tml-secret" not in str(error)
    assert server.seen == []


# ---- a server that wants a command's ----

COMMANDS = Dialect(wants_credential_cmd=True)


def test_where_the_server_wants_a_commands_key_a_plain_one_is_not_sent() -> None:
    server = Keys("tml-cmd")
    assert isinstance(run(server, send, dialect=COMMANDS), ConfigError)
    assert server.seen == []
    run(server, send, dialect=COMMANDS, credential_cmd="echo tml-cmd")
    assert server.seen == ["tml-cmd"]


def test_a_jwt_that_was_given_always_wins() -> None:
    server = Keys(token(1))
    run(server, send, api_key=token(1), dialect=COMMANDS, credential_cmd="echo tml-cmd")
    assert server.seen == [token(1)]


# ---- none at all ----


def test_without_a_key_none_is_sent() -> None:
    server = Keys("")
    run(server, send, api_key=None, dialect=Dialect())
    assert server.seen == [""]


@pytest.mark.parametrize("key", ["x", "sk-or-whatever", "tml-1"])
def test_any_key_is_accepted(key: str) -> None:
    server = Keys(key)
    assert not isinstance(run(server, send, api_key=key, dialect=Dialect()), TinkexError)


@pytest.mark.parametrize(("key", "warns"), [("sk-1", True), ("tml-1", False), (token(1), False)])
def test_a_key_of_another_kind_is_remarked_on_with_the_hosted_service_alone(
    key: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        for base_url in ("http://127.0.0.1:1", HOSTED_BASE_URL):
            await Transport(
                Config(base_url=base_url, api_key=key, dialect=Dialect(), http_transport=Keys(key))
            ).aclose()

    asyncio.run(main())
    assert len(caplog.messages) == warns
    assert key not in caplog.text
