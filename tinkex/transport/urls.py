"""Takes URLs apart, joins them and adds queries. Plain functions of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote, urlencode, urljoin, urlsplit

from attrs import frozen

_PORTS = {"http": 80, "https": 443}
_KEPT = "!#$%&'()*+,/:;=?@[]~"
"""The characters, beside letters and digits, that a target keeps as they are."""


class MalformedUrl(ValueError):
    """The error for a text that is no URL of a server."""


@frozen
class UrlParts:
    """The parts of a URL that a request needs."""

    scheme: str
    host: str
    """The host in ASCII, without the brackets of IPv6."""
    port: int
    netloc: str
    """The host, and the port unless it is the usual one."""
    target: str
    """The path and query in ASCII."""

    @property
    def is_secure(self) -> bool:
        return self.scheme == "https"


@lru_cache(maxsize=256)
def split_url(url: str) -> UrlParts:
    """Returns the parts of a URL. Raises `MalformedUrl` where it is not one of a server."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError as error:
        raise MalformedUrl(str(error)) from None
    if parts.scheme not in _PORTS or not host:
        raise MalformedUrl("it names no server by http:// or https://")
    usual = _PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return UrlParts(
        parts.scheme,
        host,
        port or usual,
        shown if port in (None, usual) else f"{shown}:{port}",
        quote(target, safe=_KEPT),
    )


def absolute_url(url: str, location: str) -> str:
    """Resolves the Location header of an answer from `url`. Raises `MalformedUrl`."""
    try:
        found = urljoin(url, location)
    except ValueError as error:
        raise MalformedUrl(str(error)) from None
    if found.startswith(("http://", "https://")):
        split_url(found)
    return found


def with_query(url: str, query: Mapping[str, Any] | None) -> str:
    """Returns a URL with parameters, of which a list gives one for each of its items."""
    if not query:
        return url
    return f"{url}?{urlencode(list(_pairs(query)), quote_via=quote)}"


def _pairs(query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, given in query.items():
        values = cast(list[Any], given) if isinstance(given, list) else [given]
        for value in values:
            yield name, _as_text(value)


def _as_text(value: Any) -> str:
    """Returns a parameter as JSON would write it, but texts without quotes."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
