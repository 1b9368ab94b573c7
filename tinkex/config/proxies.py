"""The choice of a proxy for a URL: the one of `Config.proxy`, or one of the environment.

This module does no I/O.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Self
from urllib.parse import unquote, urlsplit, urlunsplit

from attrs import field, frozen

from tinkex.config.secrets import Secret, without_password
from tinkex.errors import ConfigError

_PORTS = {"http": 80, "https": 443}


@frozen
class Proxy:
    """A proxy, and the setting that named it."""

    url: str = field(converter=Secret, repr=lambda url: str(without_password(url)))
    setting: str
    """An environment variable, or `Config.proxy`."""

    @property
    def address(self) -> str:
        """The URL without user and password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def authorization(self) -> Mapping[str, str]:
        """The header with user and password; empty if the URL has none."""
        login, at, _ = urlsplit(self.url).netloc.rpartition("@")
        return (
            {"Proxy-Authorization": Secret(f"Basic {b64encode(unquote(login).encode()).decode()}")}
            if at
            else {}
        )

    def __str__(self) -> str:
        return f"{without_password(self.url)} ({self.setting})"


@frozen
class Proxies:
    """The proxies of the settings and of the environment."""

    given: Proxy | None = None
    """The proxy of `Config.proxy`, which applies to every URL."""
    by_scheme: Mapping[str, Proxy] = field(factory=dict[str, Proxy])
    """The proxies of the environment for the schemes http and https."""
    exceptions: tuple[str, ...] = ()
    """The entries of NO_PROXY."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Reads HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

        The lower-case form of a variable takes precedence, as in other programs.
        """
        found = {scheme: _of_scheme(environment, scheme) for scheme in _PORTS}
        _, exceptions = _variable(environment, "NO_PROXY")
        return cls(
            by_scheme={scheme: proxy for scheme, proxy in found.items() if proxy is not None},
            exceptions=tuple(
                entry.strip().lower() for entry in exceptions.split(",") if entry.strip()
            ),
        )

    def __bool__(self) -> bool:
        return self.given is not None or bool(self.by_scheme)

    def of(self, url: str) -> Proxy | None:
        """Returns the proxy for a URL, or None for a direct connection.

        A server on this machine is reached directly, unless `Config.proxy` is set. Raises
        `ConfigError` for a proxy of the environment that is not an HTTP proxy.
        """
        if self.given is not None:
            return self.given
        parts = urlsplit(url)
        proxy, host = self.by_scheme.get(parts.scheme), (parts.hostname or "").rstrip(".")
        if proxy is None or _is_this_machine(host):
            return None
        port = parts.port or _PORTS[parts.scheme]
        if any(_excepts(entry, host, port) for entry in self.exceptions):
            return None
        _check(proxy, host)
        return proxy


def _of_scheme(environment: Mapping[str, str], scheme: str) -> Proxy | None:
    name, url = _variable(environment, f"{scheme.upper()}_PROXY")
    # In a CGI script the header "Proxy" of the visitor sets this variable.
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
        url = ""
    if not url:
        name, url = _variable(environment, "ALL_PROXY")
    return Proxy(url if "://" in url else f"http://{url}", name) if url else None


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Returns the name of a variable in the case in which it is set, and its value."""
    lower = name.lower()
    return (
        (lower, environment[lower]) if lower in environment else (name, environment.get(name, ""))
    )


def _check(proxy: Proxy, host: str) -> None:
    kind = urlsplit(proxy.url).scheme
    if kind not in _PORTS:
        raise ConfigError(
            f"{proxy.setting} {without_password(proxy.url)!r} is a {kind} proxy; only HTTP proxies "
            "are supported",
            advice=f"Use an http:// proxy, or add {host} to NO_PROXY to connect directly.",
        )


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _excepts(entry: str, host: str, port: int) -> bool:
    """Returns whether an entry of NO_PROXY covers this server.

    An entry is a host name, which also covers its subdomains, an address or a network. It may end
    with a port.
    """
    if entry == "*":
        return True
    name, only = _split_port(entry)
    if only and only != str(port):
        return False
    if network := _network(name):
        try:
            return ip_address(host) in network
        except ValueError:
            return False
    name = name.removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        address, _, port = entry[1:].partition("]")
        return address, port.removeprefix(":")
    name, _, port = entry.partition(":")
    return (entry, "") if ":" in port else (name, port)


def _network(name: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(name, strict=False)
    except ValueError:
        return None
