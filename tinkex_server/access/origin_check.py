"""Keeps web pages away from a server that asks for no key.

Only this machine reaches such a server, but so does every page that a browser on this machine
shows: it can have the browser send requests here, and under a name that it lets lead to 127.0.0.1
it can read the answers, too: a public name, or one that the local network's resolver makes up (one
word, `.internal`). Browsers say in each request by which name they came and for which page, which
no page can change.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex_server.wire.responses import json_response


class OriginCheck:
    """Refuses with 403 what comes by a public name, or for a page of another site."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        """`names` of the server are taken beside those of this machine that no resolver is asked
        for.
        """
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        wrong = strange(headers.get("host", ""), headers.get("origin"), self._names)
        await (self._app if wrong is None else json_response(403, {"detail": wrong}))(
            scope, receive, send
        )


@lru_cache(256)
def strange(host: str, origin: str | None, names: frozenset[str] = frozenset()) -> str | None:
    """Why a request with these headers is not served, or None."""
    if not _is_private(host, names):
        return (
            "without an API key this server answers to localhost and its address, and not to the "
            f"name {host!r}; start it with a key, or "
            "with `--allow-host` and that name"
        )
    if origin is not None and origin.partition("://")[2] != host:
        return (
            f"without an API key this server takes nothing from web pages of {origin}; start it "
            "with a key"
        )
    return None


def _is_private(host: str, names: frozenset[str]) -> bool:
    """Whether no resolver of others leads there: an address of this machine, localhost, no name at
    all, or one that was given.
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
