"""Opens connections: resolves names, tries a host's addresses, and goes through proxies and TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import httptools
from attrs import define, field, frozen

from tinkex.config.proxies import Proxy
from tinkex.threads import in_thread
from tinkex.transport.port import ExchangeFailed
from tinkex.transport.unreachable import (
    Reason,
    os_error_text,
    proxy_refused,
    proxy_unreachable,
    tls_failed,
)
from tinkex.transport.urls import split_url

P = TypeVar("P", bound=asyncio.Protocol)

_NEXT_ADDRESS = 0.25  # seconds after which the next address of a host is tried, too (RFC 8305)
_KNOWN_FOR = 10.0  # seconds for which the addresses of a name are kept
_PROXY_HEAD = 64 << 10
"""The most bytes of a proxy's answer to CONNECT."""

_Address = tuple[int, int, int, Any]
"""The family, type, protocol and address of a socket."""


@frozen(cache_hash=True)
class Origin:
    """A server as a URL names it, and the proxy before it."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """Its host and port, as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_secure(self) -> bool:
        return self.scheme == "https"


@define(eq=False)
class Connector:
    """The opener of connections, for one event loop."""

    tls_context: Callable[[], ssl.SSLContext]
    """Returns the TLS settings. Called when they are needed, since loading them takes long."""
    trusted: str
    """A description of the trusted certificates."""
    proxy_headers: Mapping[str, str] = field(factory=dict[str, str])
    """Headers for the proxies alone."""
    _lookups: dict[tuple[str, int], tuple[float, asyncio.Task[list[_Address]]]] = field(
        factory=dict[tuple[str, int], tuple[float, asyncio.Task[list[_Address]]]]
    )
    """The lookups by host and port, and when they began. Connections that are opened at once share
    one.
    """

    async def connect(self, origin: Origin, make: Callable[[], P]) -> tuple[P, socket.socket]:
        """Opens a connection and returns its protocol and its socket.

        Args:
            origin: the server, and the proxy before it.
            make: makes the protocol.

        Raises:
            ExchangeFailed: it cannot be opened. Its failure point is "connecting".
            ConfigError: the certificates of the settings cannot be read.
        """
        proxy = origin.proxy
        if origin.is_secure or (proxy and proxy.address.startswith("https:")):
            self.tls_context()  # fails before anything else does
        if proxy is None:
            sock = await self._socket(origin.host, origin.port, None)
            return await self._start(sock, make, origin.host, origin.port, origin.is_secure), sock
        peer = split_url(proxy.address)
        sock = await self._socket(peer.host, peer.port, proxy)
        if not origin.is_secure:
            return await self._start(sock, make, peer.host, peer.port, peer.is_secure), sock
        tunnel = await self._start(sock, _Tunnel, peer.host, peer.port, peer.is_secure)
        try:
            await self._open_tunnel(tunnel, origin, proxy)
            return await self._start_tls(tunnel, make(), origin), sock
        except BaseException:
            tunnel.transport.abort()
            raise

    def headers_for_proxy(self, proxy: Proxy) -> Mapping[str, str]:
        """Returns the headers that a proxy gets, its password among them."""
        return {**proxy.authorization, **self.proxy_headers}

    async def _socket(self, host: str, port: int, proxy: Proxy | None) -> socket.socket:
        """Returns a socket that is connected to one of the addresses of a host."""
        try:
            return await _first_connected(await self._addresses(host, port))
        except OSError as error:
            reason = None if proxy is None else proxy_unreachable(proxy, error)
            raise _failure(os_error_text(error), reason) from error

    async def _addresses(self, host: str, port: int) -> list[_Address]:
        now, key = asyncio.get_running_loop().time(), (host, port)
        began, task = self._lookups.get(key, (0.0, None))
        if task is None or now - began > _KNOWN_FOR:
            task = asyncio.ensure_future(_look_up(host, port))
            task.add_done_callback(_note_failure)
            self._lookups[key] = now, task
        try:
            return task.result() if task.done() else await asyncio.shield(task)
        except OSError:
            self._lookups.pop(key, None)
            raise

    async def _start(
        self, sock: socket.socket, make: Callable[[], P], host: str, port: int, secure: bool
    ) -> P:
        """Makes the protocol of a connected socket, after the TLS handshake if it is `secure`."""
        try:
            with self._explained(host, port):
                _, protocol = await asyncio.get_running_loop().create_connection(
                    make,
                    sock=sock,
                    ssl=self.tls_context() if secure else None,
                    server_hostname=host.rstrip(".") if secure else None,
                )
        except BaseException:
            sock.close()
            raise
        return protocol

    async def _open_tunnel(self, tunnel: _Tunnel, origin: Origin, proxy: Proxy) -> None:
        """Has a proxy connect to a server."""
        headers = {"Host": origin.authority, **self.headers_for_proxy(proxy)}
        tunnel.transport.write(
            "".join(
                [
                    f"CONNECT {origin.authority} HTTP/1.1\r\n",
                    *(f"{name}: {value}\r\n" for name, value in headers.items()),
                    "\r\n",
                ]
            ).encode()
        )
        status, words = await tunnel.answer
        if not 200 <= status < 300:
            reason = proxy_refused(proxy, status, words)
            raise _failure(reason.text, reason)

    async def _start_tls(self, tunnel: _Tunnel, protocol: P, origin: Origin) -> P:
        with self._explained(origin.host, origin.port):
            transport = await asyncio.get_running_loop().start_tls(
                tunnel.transport,
                protocol,
                self.tls_context(),
                server_hostname=origin.host.rstrip("."),
            )
        if transport is None:
            raise _failure("the connection was closed during the TLS handshake")
        protocol.connection_made(transport)
        return protocol

    @contextmanager
    def _explained(self, host: str, port: int) -> Generator[None]:
        """Explains the errors of a handshake."""
        try:
            yield
        except ssl.SSLError as error:
            reason = tls_failed(error, f"{host}:{port}", self.trusted)
            raise _failure(reason.text, reason) from error
        except OSError as error:
            raise _failure(os_error_text(error)) from error


class _Tunnel(asyncio.Protocol):
    """The connection to a proxy until it has connected to the server."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        """The status of the proxy's answer, and the words after it."""
        self._parser = httptools.HttpResponseParser(self)
        self._words = ""
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the bytes after the answer would be the server's, which speaks only when asked
        except httptools.HttpParserError as error:
            self._fail(f"the proxy's answer is not HTTP/1.1: {error}")
        if self._size > _PROXY_HEAD:
            self._fail("the proxy's answer is too long")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the proxy closed the connection" if exc is None else str(exc))

    def on_status(self, words: bytes) -> None:
        self._words = words.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self.answer.done():
            self.answer.set_result((status, self._words))

    def _fail(self, text: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(_failure(text))
            self.answer.exception()  # or asyncio logs it where nobody waits for it any more


async def _look_up(host: str, port: int) -> list[_Address]:
    """Returns the addresses of a host, those of one family between those of the other."""
    found = await in_thread(socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM)
    families: dict[int, list[_Address]] = {}
    for family, kind, protocol, _, address in found:
        families.setdefault(family, []).append((family, kind, protocol, address))
    mixed: list[_Address] = []
    while any(families.values()):
        mixed += [addresses.pop(0) for addresses in families.values() if addresses]
    return mixed


def _note_failure(task: asyncio.Task[list[_Address]]) -> None:
    """Reads the error of a lookup, which asyncio would log where nobody waits any more."""
    if not task.cancelled():
        task.exception()


async def _first_connected(addresses: list[_Address]) -> socket.socket:
    """Connects to the first address that answers, and returns the socket.

    The next address is tried when one fails, or after `_NEXT_ADDRESS`. Raises the error of the
    first address when all fail.
    """
    if len(addresses) == 1:
        return await _connected(addresses[0])
    waiting, running = list(addresses), set[asyncio.Task[socket.socket]]()
    first_error: OSError | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(_connected(waiting.pop(0))))
            done, running = await asyncio.wait(
                running,
                timeout=_NEXT_ADDRESS if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                first_error = first_error or error
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_drop)
    raise first_error or OSError("the host has no address")


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """Closes the socket of an attempt that succeeded after another one."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connected(address: _Address) -> socket.socket:
    family, kind, protocol, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        with suppress(OSError):  # a kind of socket that has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _failure(text: str, reason: Reason | None = None) -> ExchangeFailed:
    return ExchangeFailed(text, "connecting", reason=reason)
