"""Every setting has an effect: what goes over the wire, or what is logged, with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from attrs import define, field
from tinkex_api.api.server import get_server_capabilities

from tests.support.batches import batch
from tests.support.facades import steps_of
from tests.support.one_exchange import list_runs
from tests.support.recording_engine import RecordingEngine
from tinkex import (
    AdamParams,
    APIConnectionError,
    AuthenticationError,
    Config,
    HttpLimits,
    RecoveryPolicy,
    auth,
)
from tinkex.local import Server, serve
from tinkex.transport.transport import Transport


@define
class Wire(httpx.AsyncBaseTransport):
    """Keeps what is sent to a server."""

    inner: httpx.AsyncHTTPTransport = field(factory=httpx.AsyncHTTPTransport)
    requests: list[httpx.Request] = field(factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self.inner.aclose()

    def bodies(self, call: str) -> list[bytes]:
        return [
            request.content for request in self.requests if request.url.path.endswith(f"/{call}")
        ]


def ask(config: Config) -> None:
    """Lists the training runs."""
    asyncio.run(list_runs(config))


def sent(server: Server, **settings: Any) -> httpx.Request:
    wire = Wire()
    ask(Config(base_url=server.base_url, http_transport=wire, **settings))
    return wire.requests[-1]


def test_headers_and_query_parameters_of_the_users_own(server: Server) -> None:
    request = sent(
        server,
        api_key="tml-x",
        default_headers={"X-Team": "one", "user-agent": "me"},
        default_query={"team": "a b", "limit": "7"},
    )
    assert (request.headers["x-team"], request.headers.get_list("user-agent")) == ("one", ["me"])
    assert (request.url.params["team"], request.url.params.get_list("limit")) == ("a b", ["1"])


def test_a_key_header_of_the_users_own_goes_before_the_key(server: Server) -> None:
    assert sent(server, api_key="tml-x", default_headers={"x-api-key": "mine"}).headers.get_list(
        "x-api-key"
    ) == ["mine"]


def test_cloudflare_access(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_ACCESS_CLIENT_ID", "id")
    monkeypatch.setenv("CLOUDFLARE_ACCESS_CLIENT_SECRET", "secret")
    headers = sent(server).headers
    assert (headers["cf-access-client-id"], headers["cf-access-client-secret"]) == ("id", "secret")


def test_dumped_headers_show_no_key(
    server: Server, caplog: pytest.LogCaptureFixture, restored_log: None
) -> None:
    sent(
        server,
        api_key="tml-secret",
        dump_headers=True,
        default_headers={"Authorization": "secret-too", "X-Team": "one"},
    )
    assert "GET /api/v1/training_runs" in caplog.text
    assert "'X-Team': 'one'" in caplog.text
    assert "'X-API-Key': '(hidden)'" in caplog.text
    assert "secret" not in caplog.text


@pytest.fixture
def restored_log() -> Iterator[None]:
    log = logging.getLogger("tinkex")
    level, handlers = log.level, list(log.handlers)
    yield
    log.setLevel(level)
    log.handlers = handlers


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_log_level(level: str, restored_log: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_LOG", level)

    async def main() -> None:
        await Transport(Config(base_url="http://127.0.0.1:1")).aclose()

    asyncio.run(main())
    assert logging.getLogger("tinkex").level == getattr(logging, level.upper())


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """An HTTP proxy, and what it was asked for, with the header for it."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["X-For-Proxy"]))
            body = b'{"training_runs": [], "cursor": {"offset": 0, "limit": 1, "total_count": 0}}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_CONNECT(self) -> None:
            asked.append((self.path, self.headers["X-For-Proxy"]))
            self.send_error(403)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_a_proxy_gets_the_requests_and_its_own_headers(proxy: tuple[str, list[Any]]) -> None:
    url, asked = proxy
    ask(Config(base_url="http://away.invalid", proxy=url, proxy_headers={"X-For-Proxy": "hello"}))
    assert [(path.partition("?")[0], header) for path, header in asked] == [
        ("http://away.invalid/api/v1/training_runs", "hello")
    ]


def test_a_proxy_is_asked_for_a_tunnel_to_a_server_of_https(proxy: tuple[str, list[Any]]) -> None:
    url, asked = proxy
    config = Config(
        base_url="https://away.invalid",
        proxy=url,
        proxy_headers={"X-For-Proxy": "hello"},
        max_retries=0,
    )
    with pytest.raises(APIConnectionError):
        ask(config)
    assert asked == [("away.invalid:443", "hello")]


@pytest.mark.parametrize(
    ("limits", "opened"), [(HttpLimits(max_connections=2), 2), (HttpLimits(), 8)]
)
def test_the_number_of_connections(limits: HttpLimits, opened: int) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        body = b'{"supported_models": []}'
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(0.01)  # so that the others come meanwhile
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = Transport(Config(base_url=f"http://127.0.0.1:{port}", http_limits=limits))
        async with server:
            await asyncio.gather(
                *(transport.send(get_server_capabilities.request()) for _ in range(8))
            )
            await transport.aclose()

    asyncio.run(main())
    assert connections == opened


def test_metadata_of_the_settings_goes_with_each_session(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    server_engine.gate.set()
    wire = Wire()
    config = Config(
        base_url=server.base_url,
        user_metadata={"run": "7", "who": "me"},
        tags=["t"],
        project_id="p",
        http_transport=wire,
    )
    connect(
        server.base_url, config=config, user_metadata={"who": "you"}
    ).create_lora_training_client("fake/base", rank=4)
    (body,) = wire.bodies("create_session")
    assert b'"user_metadata":{"run":"7","who":"you"}' in body
    assert b'"tags":["t"]' in body
    assert b'"project_id":"p"' in body


def test_recovery_by_default_is_as_the_settings_say(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    server_engine.gate.set()
    wire = Wire()
    each_step = RecoveryPolicy(save_every_steps=1, save_every_minutes=None)
    service = connect(
        server.base_url,
        config=Config(base_url=server.base_url, recovery=each_step, http_transport=wire),
    )
    run = service.create_recoverable_run(service.create_lora_training_client("fake/base", rank=4))
    for _ in steps_of(run, 3):
        run.trainer.train_step(batch(1), "cross_entropy", AdamParams()).result()
    assert len(wire.bodies("save_weights")) == 1 + 3


@pytest.mark.parametrize(
    ("gates", "cancels"), [((), True), (("-cancels",), False), (("async_sampling",), True)]
)
def test_a_feature_gate_takes_precedence_over_the_servers_flags(
    connect: Callable[..., Any],
    server: Server,
    server_engine: RecordingEngine,
    gates: tuple[str, ...],
    cancels: bool,
) -> None:
    server_engine.gate.set()
    service = connect(server.base_url, config=Config(base_url=server.base_url, feature_gates=gates))
    service.create_lora_training_client("fake/base", rank=4)
    assert service.server.cancels is cancels


def test_a_dialect_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_DIALECT", "skyrl")
    config = Config(base_url="http://127.0.0.1:1")
    assert config.dialect is not None
    assert config.dialect.name == "skyrl"


# ---- tinkex.auth ----


def test_tinker_has_credentials_says_whether_there_is_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (auth.tinker_has_credentials(), auth.get_tinker_token()) == (False, None)
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", "exit 1")
    assert (auth.tinker_has_credentials(), auth.get_tinker_token()) == (True, None)
    monkeypatch.setenv("TINKER_API_KEY", "tml-x")
    assert (auth.tinker_has_credentials(), auth.get_tinker_token()) == (True, "tml-x")


def test_raise_if_tinker_not_accessible_checks_the_key_on_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve(engine=RecordingEngine(), api_key="tml-right") as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
        monkeypatch.setenv("TINKER_API_KEY", "tml-right")
        auth.raise_if_tinker_not_accessible()
        monkeypatch.setenv("TINKER_API_KEY", "tml-wrong")
        with pytest.raises(AuthenticationError):
            auth.raise_if_tinker_not_accessible()
