"""Mistakes of a user raise an error of their own class, at the first call at the latest, that says
what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

import tinkex.local
from tests.support.recording_engine import RecordingEngine
from tinkex import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    Config,
    ConfigError,
    InvalidInputError,
    NotATinkerServerError,
    TinkexError,
)
from tinkex.local import Server


@pytest.fixture
def web_site() -> Iterator[str]:
    """A server that answers everything with a web page."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "13")
            self.end_headers()
            self.wfile.write(b"<html></html>")

        def log_message(self, *_args: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Page) as site:
        thread = Thread(target=site.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


def test_the_hosted_service_without_a_key_is_an_error(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="TINKER_API_KEY") as caught:
        connect(None, api_key=None)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("url", ["127.0.0.1:8765", "ftp://a", "http://"])
def test_an_invalid_base_url_is_refused(connect: Callable[..., Any], url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        connect(url)


def test_a_wrong_key_raises_authentication_error(connect: Callable[..., Any]) -> None:
    with tinkex.local.serve(engine=RecordingEngine(), api_key="tml-right") as server:
        with pytest.raises(AuthenticationError, match="TINKER_API_KEY") as caught:
            connect(server.base_url, api_key="tml-wrong").create_lora_training_client("fake/base")
        assert "tml-wrong" not in str(caught.value)
        connect(server.base_url, api_key="tml-right").create_lora_training_client("fake/base")


def test_an_unreachable_server_raises_connection_error(connect: Callable[..., Any]) -> None:
    with pytest.raises(
        APIConnectionError, match=r"cannot be reached.*Connection refused"
    ) as caught:
        connect("http://127.0.0.1:1").create_lora_training_client("fake/base")
    assert "base_url" in str(caught.value)
    assert caught.value.fault == "network"


class Refusing(BaseHTTPRequestHandler):
    """A web server's handler that refuses every POST with a status and an HTML page."""

    status: int

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(self.status, "<Some words>")

    def log_message(self, *_args: Any) -> None:
        """Quiet."""


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_an_html_refusal_means_that_it_is_not_a_tinker_server(
    connect: Callable[..., Any], status: int
) -> None:
    class Handler(Refusing):
        def do_GET(self) -> None:
            self.send_error(status)

    Handler.status = status
    with HTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{site.server_port}"
        try:
            with pytest.raises(
                NotATinkerServerError,
                match=f"at {url} is not a Tinker server: it answered {status} ",
            ) as caught:
                connect(url).create_lora_training_client("fake/base")
        finally:
            site.shutdown()
            thread.join()
    assert "<" not in str(caught.value)
    assert "base_url" in str(caught.value.advice)


def test_a_web_site_is_not_a_tinker_server(connect: Callable[..., Any], web_site: str) -> None:
    with pytest.raises(NotATinkerServerError, match="base_url"):
        connect(web_site).create_lora_training_client("fake/base")


def test_a_base_url_with_a_wrong_path_is_not_a_tinker_server(
    connect: Callable[..., Any], server: Server
) -> None:
    with pytest.raises(TinkexError, match="base_url"):
        connect(f"{server.base_url}/api/v1").create_lora_training_client("fake/base")


def test_an_unknown_base_model_is_answered_with_the_known_ones(service: Any) -> None:
    with pytest.raises(BadRequestError, match="fake/base"):
        service.create_lora_training_client("no/such-model")
    assert [model.model_name for model in service.get_server_capabilities().supported_models] == [
        "fake/base"
    ]


@pytest.mark.parametrize(
    "shape", [{"rank": -1}, {"train_mlp": False, "train_attn": False, "train_unembed": False}]
)
def test_an_adapter_that_trains_nothing_is_refused(service: Any, shape: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        service.create_lora_training_client("fake/base", **shape)


def test_after_close_every_call_says_so(service: Any) -> None:
    service.create_lora_training_client("fake/base")
    service.close()
    service.close()
    with pytest.raises(ClientClosedError):
        service.create_lora_training_client("fake/base")


def test_leaving_the_context_reports_the_outcome_to_the_server(
    connect: Callable[..., Any], server: Server
) -> None:
    import httpx

    def heartbeat(session_id: str) -> int:
        return httpx.post(
            f"{server.base_url}/api/v1/session_heartbeat", json={"session_id": session_id}
        ).status_code

    service = connect(server.base_url)
    session_id = service.create_lora_training_client("fake/base").model_id.partition(":")[0]
    assert heartbeat(session_id) == 200
    service.__exit__(ValueError, ValueError("no"), None)
    assert heartbeat(session_id) == 410


def test_the_key_is_in_no_repr() -> None:
    config = Config(base_url="http://127.0.0.1:1", api_key="tml-secret")
    assert "tml-secret" not in repr(config)
    assert "tml-secret" not in repr(tinkex.AsyncServiceClient(config=config))


@pytest.mark.parametrize("client", [tinkex.ServiceClient, tinkex.AsyncServiceClient])
def test_a_config_in_the_place_of_the_base_url_is_refused_with_the_right_call(client: Any) -> None:
    with pytest.raises(tinkex.InvalidInputError) as refused:
        client(Config(base_url="http://127.0.0.1:1"))
    assert "base_url must be a string, found Config" in str(refused.value)
    assert "Pass the argument by name: config=Config(…)" in str(refused.value)
