"""The probe of the network: the name, the connection and the TLS handshake, with their times."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from tinkex.config import LOCAL, Config
from tinkex.config.proxies import Proxy
from tinkex.doctor.finding import Finding
from tinkex.errors import ConfigError
from tinkex.local import beside
from tinkex.threads import in_own_thread
from tinkex.transport import certificates
from tinkex.transport.unreachable import os_error_text, tls_failed

_PORTS = {"http": 80, "https": 443}
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Unreached(Exception):
    """A failed attempt to reach the server, with the finding that says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


@frozen
class Place:
    """The first peer of a connection: the server, or the proxy before it."""

    host: str
    port: int
    secure: bool
    proxy: Proxy | None = None

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_this_machine(self) -> bool:
        return self.host in _THIS_MACHINE


@frozen
class Reached:
    """A server that was reached, with its address and the finding that says how."""

    finding: Finding
    base_url: str


async def reach(config: Config) -> Reached:
    """Connects to the server, or to the proxy before it, and measures how long each part takes.

    "local" starts an embedded server, which ends with this process.

    Raises:
        Unreached: the connection failed.
    """
    if config.base_url == LOCAL:
        return await _start_local()
    place, parts = _place(config), list[str]()
    try:
        seconds = await _look_up(place)
        parts.append(f"{place.address}: name {_ms(seconds)}")
        began = time.perf_counter()
        _, writer = await asyncio.open_connection(place.host, place.port)
    except OSError as error:
        raise Unreached(_no_connection(place, error)) from error
    parts.append(f"connection {_ms(time.perf_counter() - began)}")
    with closing(writer):
        if place.secure:
            parts.append(await _handshake(config, place, writer))
    if place.proxy is not None:
        parts.append(f"the server is behind the proxy {place.proxy}")
    return Reached(_ok(", ".join(parts)), config.base_url)


def no_connection_in_time(config: Config, seconds: float) -> Finding:
    """Returns the finding for a connection that was not made within the time of a probe."""
    if config.base_url == LOCAL:
        return _unreached(
            f"the embedded server did not start within {seconds:g} s",
            "This machine may be busy, or its disk slow.",
            "tinkex serve",
        )
    place = _place(config)
    return _unreached(
        f"{place.address}: no connection within {seconds:g} s",
        "A firewall, or a network that does not lead there, usually drops packets like this.",
        f"curl --max-time 10 -v {config.base_url}/api/v1/healthz",
    )


def _place(config: Config) -> Place:
    proxy = config.proxies.of(config.base_url)
    url = urlsplit(proxy.url if proxy is not None else config.base_url)
    port = url.port or _PORTS[url.scheme]
    return Place(url.hostname or "", port, url.scheme == "https", proxy)


async def _start_local() -> Reached:
    began = time.perf_counter()
    try:
        # in a process beside this one, which therefore need not wait for the engine at its end
        url = await asyncio.wrap_future(in_own_thread(beside.start, ()))
    except ConfigError as error:
        raise Unreached(
            _unreached(error.message, None, "pip install torch 'tinkex[local]'")
        ) from error
    text = f"an embedded server, started at {url} in {_ms(time.perf_counter() - began)}"
    return Reached(_ok(text), url)


async def _look_up(place: Place) -> float:
    """Looks up the name, and returns the seconds that it took."""
    began = time.perf_counter()
    # in a thread of its own: the command must not wait at its end for a lookup that hangs
    await asyncio.wrap_future(
        in_own_thread(socket.getaddrinfo, place.host, place.port, type=socket.SOCK_STREAM)
    )
    return time.perf_counter() - began


async def _handshake(config: Config, place: Place, writer: asyncio.StreamWriter) -> str:
    """Makes the TLS handshake, and returns the version and the time. Raises `Unreached`."""
    began, environment = time.perf_counter(), config.sources.environment
    try:
        context = certificates.tls_context(certificates.read_variables(environment))
    except ConfigError as error:
        raise Unreached(_unreached(error.message, error.advice, None)) from error
    try:
        await writer.start_tls(context, server_hostname=place.host)
    except OSError as error:
        trusted = certificates.describe(environment)
        is_about_certificate = isinstance(error, ssl.SSLCertVerificationError)
        reason = tls_failed(error, place.address, trusted)
        raise Unreached(
            _unreached(
                f"{place.address}: {reason.text}",
                reason.advice,
                _show_certificate(place)
                if is_about_certificate
                else f"export TINKER_BASE_URL=http://{place.address}",
            )
        ) from error
    tls: Any = writer.get_extra_info("ssl_object")
    return f"{tls.version()} {_ms(time.perf_counter() - began)}"


def _show_certificate(place: Place) -> str:
    return (
        f"openssl s_client -connect {place.address} -showcerts </dev/null > server.pem && "
        "export SSL_CERT_FILE=$PWD/server.pem"
    )


def _no_connection(place: Place, error: OSError) -> Finding:
    if place.proxy is not None:
        return _unreached(
            f"the proxy {place.proxy} cannot be reached: {os_error_text(error)}",
            "The proxy is not running, or its variable is wrong.",
            f"unset {place.proxy.setting}",
        )
    if isinstance(error, socket.gaierror):
        return _unreached(
            f"{place.host}: this name is not known ({error.strerror})",
            "The name is misspelt, or this machine has no DNS.",
            f"getent hosts {place.host}",
        )
    if place.is_this_machine:
        return _unreached(
            f"{place.address}: {os_error_text(error).lower()}",
            "No server listens on this port of this machine.",
            f"tinkex serve --port {place.port}",
        )
    return _unreached(
        f"{place.address}: {os_error_text(error).lower()}",
        "No server listens on this port, or a firewall refuses the connection.",
        "export TINKER_BASE_URL=http://HOST:PORT",
    )


def _unreached(text: str, cause: str | None, command: str | None) -> Finding:
    return Finding(
        probe="network", level="fail", text=text, cause=cause, command=command, unreachable=True
    )


def _ok(text: str) -> Finding:
    return Finding(probe="network", level="ok", text=text)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
