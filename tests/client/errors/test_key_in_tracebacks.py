"""The key is in no local variable of an error's frames as pytest -l, rich and error trackers show
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from io import StringIO
from types import FrameType
from typing import Any

import orjson
import pytest
from rich.console import Console
from rich.traceback import Traceback
from tinkex_api.api.server import get_server_capabilities

from tests.support.answering_server import Answer, answering, as_json
from tests.support.fault_server import fault_server, never
from tinkex import Config, ConfigError, RestClient, RetrySettings, ServiceClient, TinkexError
from tinkex.config.secrets import HIDDEN, Secret
from tinkex.dialects.dialect import Dialect
from tinkex.transport.transport import Transport

KEY = "tml-" + "canary" * 20  # longer than what rich shows of a text
EXCHANGES = Dialect(exchanges_keys=True)
REFUSED = "http://127.0.0.1:9"


def frames(error: BaseException | None) -> Iterator[FrameType]:
    """Yields the frames of an error and its causes, except this module's, which know the key."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals.get("__name__") != __name__:
                yield trace.tb_frame
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def shown(value: object, depth: int = 0) -> Iterator[str]:
    """The repr of a value, and those of what is in it."""
    with suppress(AttributeError):  # of an object that is not whole yet
        yield repr(value)
    if depth > 4:
        return
    if isinstance(value, Mapping):
        for name, inner in list(value.items()):
            yield from shown(name, depth + 1)
            yield from shown(inner, depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for inner in value:
            yield from shown(inner, depth + 1)


def assert_hidden(error: BaseException, key: str = KEY, *, printed: bool = False) -> None:
    """Fails when an error or one of its causes shows the key: in its text, its notes, or the locals
    of its frames, as they are and as rich collects them.

    `printed` prints the traceback with rich, too, which takes seconds, since its highlighting is
    slow. A print shows these texts, these locals and source code.
    """
    for frame in frames(error):
        for name, value in frame.f_locals.items():
            for text in shown(value):
                assert key[:14] not in text, (
                    f"{name} of {frame.f_code.co_qualname} ({frame.f_globals['__name__']}): "
                    f"{text[:300]}"
                )
    assert key[:14] not in str(error)
    trace = Traceback.extract(type(error), error, error.__traceback__, show_locals=True)
    for stack in trace.stacks:
        for text in (stack.exc_value, *stack.notes):
            assert key[:14] not in text, f"the text of {stack.exc_type}: {text[:300]}"
        stack.frames = [frame for frame in stack.frames if "test_key_in" not in frame.filename]
        for frame in stack.frames:
            for name, node in (frame.locals or {}).items():
                text = node.render(max_width=400, expand_all=True)  # as rich prints the value
                assert key[:14] not in text, f"{name} of {frame.name}, in rich: {text[:300]}"
    if printed:
        out = StringIO()
        Console(file=out, width=400).print(Traceback(trace, show_locals=True))
        assert key[:14] not in out.getvalue()


async def failure(base_url: str, **settings: Any) -> BaseException:
    given = {
        "api_key": KEY,
        "dialect": Dialect(),
        "retry": RetrySettings(max_attempts=1),
        **settings,
    }
    transport = Transport(Config(base_url=base_url, **given))
    try:
        await transport.send(get_server_capabilities.request())
    except TinkexError as error:
        return error
    finally:
        await transport.aclose()
    raise AssertionError("it went well")


def fail(base_url: str, **settings: Any) -> BaseException:
    return asyncio.run(failure(base_url, **settings))


def fail_with(answer: Answer, **settings: Any) -> BaseException:
    with answering(lambda call: answer) as server:
        return fail(server.base_url, **settings)


async def at(fault: Callable[..., Awaitable[None]], **settings: Any) -> BaseException:
    async with fault_server(fault) as base_url:
        return await failure(base_url, **settings)


async def _hang(_path: str, _writer: asyncio.StreamWriter) -> None:
    await never()


async def _reset(_path: str, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _garbage(_path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"no HTTP at all\r\n\r\n")
    await writer.drain()


SETTINGS: dict[str, dict[str, Any]] = {
    "as a text": {},
    "as a bearer": {"dialect": Dialect(bearer=True)},
    "by a function": {"api_key": lambda: KEY},
    "by a command": {"api_key": None, "credential_cmd": f"echo {KEY}"},
    "to be exchanged": {"dialect": EXCHANGES},
    "in a header": {"api_key": "tml-x", "default_headers": {"Authorization": KEY}},
    "for the gate": {
        "api_key": "tml-x",
        "cf_access_client_id": "gate",
        "cf_access_client_secret": KEY,
    },
}
FAILURES: dict[str, Callable[..., BaseException]] = {
    "refused": lambda **settings: fail(REFUSED, **settings),
    "401": lambda **settings: fail_with(as_json({"detail": "no"}, 401), **settings),
    "500": lambda **settings: fail_with(as_json({"detail": "no"}, 500), **settings),
    "unreadable": lambda **settings: fail_with(Answer(200, b"[1]"), **settings),
    "timeout": lambda **settings: asyncio.run(at(_hang, timeout=0.2, **settings)),
    "reset": lambda **settings: asyncio.run(at(_reset, **settings)),
    "garbage": lambda **settings: asyncio.run(at(_garbage, **settings)),
}


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("what", FAILURES)
def test_no_frame_of_an_error_shows_the_key(what: str, how: str) -> None:
    error = FAILURES[what](**SETTINGS[how])
    assert list(frames(error))
    assert_hidden(error, printed=(what, how) == ("401", "as a text"))


@pytest.mark.parametrize("how", SETTINGS)
def test_no_frame_of_a_call_that_is_cancelled_shows_the_key(how: str) -> None:
    async def cancelled() -> BaseException:
        async with fault_server(_hang) as base_url:
            task = asyncio.create_task(failure(base_url, **SETTINGS[how]))
            await asyncio.sleep(0.3)
            task.cancel()
            try:
                return await task
            except asyncio.CancelledError as error:
                return error

    error = asyncio.run(cancelled())
    assert (
        any("aiohttp" in frame.f_globals["__name__"] for frame in frames(error))
        or "exchanged" in how
    )
    assert_hidden(error)


def test_the_password_of_a_proxy_is_in_no_frame() -> None:
    for base_url in ("http://there.invalid", "https://there.invalid"):
        proxies = {
            "proxy": f"http://me:{KEY}@127.0.0.1:9",
            "api_key": "tml-x",
            "proxy_headers": {"Proxy-Token": KEY},
        }
        assert_hidden(fail(base_url, **proxies))


def test_a_proxy_gets_the_password_and_a_server_behind_it_the_rest() -> None:
    with answering(lambda call: as_json({"supported_models": []})) as proxy:

        async def send() -> None:
            url = proxy.base_url.replace("://", "://me:p%40ss@")
            transport = Transport(
                Config(base_url="http://there.invalid", api_key=KEY, dialect=Dialect(), proxy=url)
            )
            await transport.send(get_server_capabilities.request())
            await transport.aclose()

        asyncio.run(send())
    [call] = proxy.calls
    assert call.headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
    assert call.headers["x-api-key"] == KEY


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": lambda: KEY + "\n"},
        {"api_key": None, "credential_cmd": f"echo {KEY}; echo more"},
        {"api_key": None, "credential_cmd": f"echo {KEY}; exit 3"},
    ],
)
def test_a_key_that_cannot_be_sent_is_not_shown(settings: dict[str, Any]) -> None:
    assert_hidden(fail(REFUSED, **settings))


@pytest.mark.parametrize("make", [Config, ServiceClient, RestClient])
@pytest.mark.parametrize(
    "wrong", [{"base_url": "no URL"}, {"base_url": REFUSED, "api_key": KEY + "\u00e4"}]
)
def test_a_client_that_cannot_be_made_does_not_show_its_key(
    make: Callable[..., Any], wrong: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**{"api_key": KEY, **wrong})
    assert_hidden(caught.value)


def test_a_key_of_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKEX_TIMEOUT", "never")
    with pytest.raises(ConfigError) as caught:
        Config()
    assert_hidden(caught.value)


def test_a_blocking_call_that_fails_does_not_show_the_key() -> None:
    with pytest.raises(TinkexError) as caught:
        RestClient(
            base_url=REFUSED, api_key=KEY, retry=RetrySettings(max_attempts=1)
        ).list_sessions()
    assert_hidden(caught.value, printed=True)


def test_a_secret_is_the_text_that_it_is() -> None:
    secret = Secret(KEY)
    assert (secret, f"{secret}", str(secret), {secret: 1}[KEY]) == (KEY, KEY, KEY, 1)
    assert {repr(secret), repr(secret[:5]), repr([secret])[1:-1]} == {HIDDEN}
    assert orjson.loads(orjson.dumps({"a": secret})) == {"a": KEY}
