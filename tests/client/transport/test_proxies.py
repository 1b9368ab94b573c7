"""Proxies of the environment: which servers are asked through them, and what is said when they
fail. Over real sockets.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import one_exchange
from tests.support.fault_server import answer, fault_server
from tests.support.tls import Authority, SmallProxy, small_proxy
from tinkex import APIConnectionError, Config, ConfigError, InternalServerError, TinkexError
from tinkex.config.proxies import Proxies
from tinkex.transport.transport import Transport

AWAY = "tinker.example.test"


async def list_runs(base_url: str, **settings: Any) -> Any:
    return await one_exchange.list_runs(Config(base_url=base_url, **settings))


async def tell(path: str, writer: asyncio.StreamWriter) -> None:
    await answer(writer, one_exchange.RUNS)


def away(url: str, host: str = AWAY) -> str:
    """The URL of a server of this machine under the name of another."""
    return url.replace("127.0.0.1", host)


def test_the_proxy_of_these_tests_ends_with_a_test_that_fails() -> None:
    before = set(threading.enumerate())
    with suppress(ZeroDivisionError), small_proxy():
        raise ZeroDivisionError
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_server_of_https_is_asked_through_a_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

    async def main() -> tuple[Any, str, SmallProxy]:
        async with fault_server(tell, tls=authority.server_context(AWAY)) as url:
            with small_proxy() as proxy:
                monkeypatch.setenv(variable, proxy.url.replace("://", "://me:p%40ss@"))
                return await list_runs(away(url)), url, proxy

    runs, url, proxy = asyncio.run(main())
    assert runs.training_runs == []
    assert proxy.asked == [f"CONNECT {AWAY}:{urlsplit(url).port} HTTP/1.1"]
    assert proxy.credentials == ["Proxy-Authorization: Basic bWU6cEBzcw=="]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_server_of_http_is_asked_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async def main() -> tuple[Any, str, SmallProxy]:
        async with fault_server(tell) as url:
            with small_proxy() as proxy:
                monkeypatch.setenv(variable, proxy.url.removeprefix("http://"))  # as many write it
                return await list_runs(away(url)), url, proxy

    runs, url, proxy = asyncio.run(main())
    assert runs.training_runs == []
    assert [line.partition("?")[0] for line in proxy.asked] == [
        f"GET {away(url)}/api/v1/training_runs"
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "tinker.localhost"])
def test_a_server_on_this_machine_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Only a proxy that was given goes for it, too."""

    async def main() -> SmallProxy:
        async with fault_server(tell) as url:
            with small_proxy() as proxy:
                for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                    monkeypatch.setenv(variable, proxy.url)
                assert Config(base_url=away(url, host)).proxies.of(away(url, host)) is None
                await list_runs(away(url, "localhost"))
                assert proxy.asked == []
                await list_runs(away(url, "localhost"), proxy=proxy.url)
                return proxy

    assert len(asyncio.run(main()).asked) == 1


@pytest.mark.parametrize(
    ("entries", "excepted", "others"),
    [
        ("*", ["a.test", "10.1.2.3"], []),
        (
            "example.test",
            ["example.test", "a.example.test", "EXAMPLE.test."],
            ["anexample.test", "example.test.org"],
        ),
        (".example.test, b.test", ["a.example.test", "example.test", "b.test"], ["c.test"]),
        ("*.example.test", ["a.example.test"], ["b.test"]),
        ("a.test:8000", ["a.test:8000"], ["a.test", "a.test:80"]),
        (
            "10.0.0.0/8,192.168.1.7",
            ["10.1.2.3", "192.168.1.7"],
            ["11.0.0.1", "192.168.1.70", "10.example"],
        ),
        (
            "fd00::/8,[2001:db8::1]:443",
            ["[fd00::1]", "[2001:db8::1]:443"],
            ["[2001:db8::1]:444", "[fe80::1]"],
        ),
        (" ,", [], ["a.test"]),
    ],
)
def test_no_proxy(entries: str, excepted: list[str], others: list[str]) -> None:
    proxies = Proxies.of_environment({"HTTPS_PROXY": "http://p:1", "NO_PROXY": entries})
    assert [
        host for host in excepted + others if proxies.of(f"https://{host}/x") is None
    ] == excepted


def test_lower_case_names_go_first_and_a_cgi_script_takes_no_proxy_of_its_visitors() -> None:
    both = Proxies.of_environment({"HTTP_PROXY": "http://upper:1", "http_proxy": "http://lower:1"})
    assert str(both.of("http://a.test")) == "http://lower:1 (http_proxy)"
    assert (
        Proxies.of_environment({"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "GET"}).of(
            "http://a.test"
        )
        is None
    )


def test_redirects_and_signed_downloads_go_through_the_proxy_of_their_own_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> SmallProxy:
        async with fault_server(tell) as elsewhere:
            with small_proxy() as proxy:

                async def redirect(path: str, writer: asyncio.StreamWriter) -> None:
                    place = away(elsewhere, "store.example.test").encode()
                    writer.write(
                        b"HTTP/1.1 302 Found\r\nLocation: "
                        + place
                        + b"/runs\r\nContent-Length: 0\r\n\r\n"
                    )

                async with fault_server(redirect) as here:
                    monkeypatch.setenv("HTTP_PROXY", proxy.url)
                    await list_runs(here)
                    transport = Transport(Config(base_url=here))
                    signed = f"{away(elsewhere, 'bucket.example.test')}/archive?sig=1"
                    async with transport.open_url(signed, "download", with_key=False) as response:
                        assert response.status_code == 200
                    await transport.aclose()
                return proxy

    assert [line.split("/")[2].partition(":")[0] for line in asyncio.run(main()).asked] == [
        "store.example.test",
        "bucket.example.test",
    ]


def failure(base_url: str, **settings: Any) -> TinkexError:
    with pytest.raises(TinkexError) as caught:
        asyncio.run(list_runs(base_url, max_retries=1, **settings))
    assert "pass-word" not in f"{caught.value}"
    return caught.value


def test_a_proxy_that_cannot_be_reached_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass-word@127.0.0.1:1")
    error = failure(f"https://{AWAY}")
    assert (
        "the proxy http://(hidden)@127.0.0.1:1 (HTTPS_PROXY) cannot be reached: Connection refused"
        in error.message
    )
    assert "NO_PROXY" in str(error.advice)
    assert isinstance(error, APIConnectionError)
    assert (error.sent, error.retryable) == (False, True)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("refusal", "advice", "asked"),
    [
        (b"407 Proxy Authentication Required", "http://user:password@host:port", 1),
        (b"403 Forbidden", "NO_PROXY", 1),
        (b"502 Bad Gateway", "NO_PROXY", 2),
    ],
)
def test_a_proxy_that_refuses_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, scheme: str, refusal: bytes, advice: str, asked: int
) -> None:
    async def main() -> SmallProxy:
        with small_proxy() as proxy:
            proxy.refusal = refusal
            monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
            error = await asyncio.to_thread(failure, f"{scheme}://{AWAY}")
            named = f"the proxy {proxy.url} ({scheme.upper()}_PROXY)"
            assert refusal.decode() in error.message
            if scheme == "https" or refusal.startswith(b"407"):
                assert f"cannot be reached: {named} refuses" in error.message
                assert advice in str(error.advice)
                assert not getattr(error, "sent", True)
            else:  # the answer may be the server's own
                assert f"came through {named}" in str(error.advice)
            return proxy

    assert len(asyncio.run(main()).asked) == asked


def test_a_tunnel_that_breaks_is_told_with_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            monkeypatch.setenv("HTTPS_PROXY", url)
            error = await asyncio.to_thread(failure, f"https://{AWAY}")
            assert f"cannot be reached through the proxy {url} (HTTPS_PROXY)" in error.message

    asyncio.run(main())


def test_an_unsupported_kind_of_proxy_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://me:pass-word@127.0.0.1:9")
    with pytest.raises(
        ConfigError,
        match=r"ALL_PROXY 'socks5://.hidden.@127.0.0.1:9' is a socks5 proxy",
    ) as caught:
        Config(base_url=f"https://{AWAY}")
    assert f"add {AWAY} to NO_PROXY" in str(caught.value.advice)
    Config(base_url="http://127.0.0.1:1")  # which is asked directly


def test_the_description_of_the_settings_shows_the_proxy_and_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass-word@proxy.test:3128")
    config = Config(base_url=f"https://{AWAY}", proxy_headers={"X-For-Proxy": "x"})
    (row,) = [setting for setting in config.describe() if setting.name == "proxy"]
    assert (row.value, row.source) == ("http://(hidden)@proxy.test:3128", "HTTPS_PROXY")
    assert "pass-word" not in repr(config.proxies)


def test_a_server_error_without_a_proxy_speaks_of_none() -> None:
    async def main() -> TinkexError:
        async def fail(path: str, writer: asyncio.StreamWriter) -> None:
            await answer(writer, b"{}", status="500 Internal Server Error")

        async with fault_server(fail) as url:
            return await asyncio.to_thread(failure, url)

    error = asyncio.run(main())
    assert isinstance(error, InternalServerError)
    assert "proxy" not in str(error)
