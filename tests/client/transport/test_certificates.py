"""Servers behind TLS: whose certificates are trusted, and what is said of one that is not. Over
real sockets.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_server import answer, fault_server
from tests.support.one_exchange import RUNS, list_runs
from tests.support.tls import Authority
from tinkex import APIConnectionError, APIStatusError, Config, ConfigError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def ask(base_url: str, **settings: Any) -> Any:
    """Lists the training runs; returns what the client saw."""
    return asyncio.run(list_runs(Config(base_url=base_url, **settings)))


def asked_over_tls(context: Any, host: str = "localhost") -> tuple[Any, int]:
    """Asks a server with these TLS settings; returns the answer or the error, and how many requests
    the server saw.
    """

    async def main() -> tuple[Any, int]:
        seen = list[str]()

        async def tell(path: str, writer: asyncio.StreamWriter) -> None:
            seen.append(path)
            await answer(writer, RUNS)

        async with fault_server(tell, tls=context) as url:
            url = url.replace("127.0.0.1", host)
            try:
                return await asyncio.to_thread(ask, url), len(seen)
            except APIConnectionError as error:
                return error, len(seen)

    return asyncio.run(main())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_file_of_certificates_that_a_variable_names_is_trusted(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(authority.file))
    runs, seen = asked_over_tls(authority.server_context("localhost"))
    assert (runs.training_runs, seen) == ([], 1)


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_a_folder_of_certificates_that_a_variable_names_is_trusted(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    folder = authority.folder / "trusted"
    folder.mkdir()
    (folder / f"{authority.subject_hash()}.0").write_bytes(authority.file.read_bytes())
    nowhere = f":{authority.folder / 'nowhere'}" if variable == "SSL_CERT_DIR" else ""
    monkeypatch.setenv(variable, f"{folder}{nowhere}")
    runs, seen = asked_over_tls(authority.server_context("localhost"))
    assert (runs.training_runs, seen) == ([], 1)


@pytest.mark.parametrize(
    ("how", "words", "advice"),
    [
        ({"self_signed": True}, "self-signed certificate", "SSL_CERT_FILE=/path"),
        ({}, "unable to get local issuer certificate", "SSL_CERT_FILE=/path"),
    ],
)
def test_a_certificate_that_nobody_vouches_for_is_named_with_the_variable_to_set(
    authority: Authority, how: dict[str, Any], words: str, advice: str
) -> None:
    error, seen = asked_over_tls(authority.server_context("localhost", **how))
    assert f"cannot be reached: its certificate is not trusted: {words}" in error.message
    assert "tried" not in error.message, "another try would be in vain"
    assert advice in error.advice
    assert "Trusted are the certificates of the system and certifi" in error.advice
    assert (error.failure_point, error.sent, error.retryable, error.fault, seen) == (
        "connecting",
        False,
        False,
        "user",
        0,
    )


@pytest.mark.parametrize(
    ("name", "days", "words", "advice", "fault"),
    [
        ("localhost", -1, "certificate has expired", "must renew it", "server"),
        (
            "other.example",
            2,
            "Hostname mismatch, certificate is not valid for 'localhost'",
            "a host name that the certificate covers",
            "user",
        ),
    ],
)
def test_an_expired_certificate_and_one_of_another_host_say_so(
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    days: int,
    words: str,
    advice: str,
    fault: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    error, seen = asked_over_tls(authority.server_context(name, days=days))
    assert words in error.message
    assert advice in error.advice
    assert (error.fault, error.retryable, seen) == (fault, False, 0)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_variable_that_names_no_certificates_is_an_error_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(
        ConfigError, match=r"no certificates can be read from SSL_CERT_FILE=.*ca.pem"
    ):
        ask("https://127.0.0.1:1")


def refused(write: bytes, *, https: bool) -> APIConnectionError | APIStatusError:
    """The error of a client of a plain server that writes this to all that comes."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(write)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await asyncio.to_thread(ask, f"http{'s' if https else ''}://{place}", max_retries=1)

    with pytest.raises((APIConnectionError, APIStatusError)) as caught:
        asyncio.run(main())
    return caught.value


def test_https_to_a_port_that_speaks_http_says_so() -> None:
    error = refused(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", https=True)
    assert "the server at this address does not speak TLS" in error.message
    assert "http://…" in str(error.advice)
    assert not error.retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<h1>The plain HTTP request "
        b"was sent to HTTPS port</h1>",
    ],
    ids=["an alert of TLS", "Go", "nginx"],
)
def test_http_to_a_port_that_speaks_tls_says_so(answer: bytes) -> None:
    error = refused(answer, https=False)
    assert "https://…" in str(error.advice)
    assert not error.retryable
