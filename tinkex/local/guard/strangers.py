"""Keeps web pages away from a server that asks for no key.

Only this machine reaches such a server, but so does every page that a browser on this machine shows: it can have the browser send
requests here, and under a public name that it lets lead to 127.0.0.1 it can read the answers, too. Browsers say in each request by
which name they came and for which page, which no page can change.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex.local.wire.http import json_response

_PRIVATE = (".localhost", ".internal")
"""Ends of names that are nobody's on the internet."""


class NoStrangers:
    """Refuses with 403 what comes by a public name, or for a page of another site."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        wrong = strange(headers.get("host", ""), headers.get("origin"))
        await (self._app if wrong is None else json_response(403, {"detail": wrong}))(scope, receive, send)


@lru_cache(256)
def strange(host: str, origin: str | None) -> str | None:
    """Why a request with these headers is not served, or None."""
    if not _is_private(host):
        return f"without an API key this server answers by its address alone, and not by the name {host!r}; start it with a key"
    if origin is not None and origin.partition("://")[2] != host:
        return f"without an API key this server takes nothing from web pages of {origin}; start it with a key"
    return None


def _is_private(host: str) -> bool:
    """Whether no public name leads there: an address, one word, or no name at all."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return "." not in name or name.endswith(_PRIVATE) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
