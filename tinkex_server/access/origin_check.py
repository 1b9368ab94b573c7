"""`OriginCheck`: keeps web pages away from a server that asks for no API key.

Only this machine can reach such a server, but so can every page that a browser on this machine
shows: a page can make the browser send requests here. Under a name that resolves to 127.0.0.1 (DNS
rebinding) it can read the answers, too. That may be a public name, or one that the local network's
resolver makes up (a single word, `.internal`). The headers Host and Origin say which name a request
used and which page sent it, and no page can change them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex_server.errors import Reason, Refused
from tinkex_server.wire.refusals import refusal_response
from tinkex_server.wire.scope import header


class OriginCheck:
    """ASGI middleware that answers 403 to requests by a public name or from another site's page."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        """Accepts `names` of the server beside the local ones, which need no resolver."""
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        host, origin = header(scope, b"host") or "", header(scope, b"origin")
        reason = refusal_reason(host, origin, self._names)
        app = self._app if reason is None else refusal_response(Refused(Reason.FORBIDDEN, reason))
        return app(scope, receive, send)


@lru_cache(256)
def refusal_reason(
    host: str, origin: str | None, names: frozenset[str] = frozenset()
) -> str | None:
    """Returns why a request with these headers is not served, or None if it is."""
    if not _is_local(host, names):
        return (
            "without an API key this server can be called localhost or by its address, not "
            f"{host!r}; start it with an API key, or with `--allow-host` and that name"
        )
    if origin is not None and origin.partition("://")[2] != host:
        return (
            f"without an API key this server takes no requests from web pages of {origin}; start "
            "it with an API key"
        )
    return None


def _is_local(host: str, names: frozenset[str]) -> bool:
    """Returns whether a host is trusted: it needs no resolver (a loopback address, localhost, no
    name at all), or is one of `names`.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in ("", "localhost", *names) or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
