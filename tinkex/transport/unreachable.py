"""Why a server cannot be reached, in words. No I/O here."""

from __future__ import annotations

import os

import httpx
from attrs import frozen

from tinkex.config.proxies import Proxy
from tinkex.errors import Fault


@frozen
class Reason:
    """Why, in words, and what to do."""

    what: str
    advice: str
    fault: Fault = "user"
    passes: bool = False
    """Whether another try may help."""


class Unreachable(httpx.ConnectError):
    """An error of the connection whose reason is known."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.what)
        self.reason = reason


def proxy_refused(proxy: Proxy, status: int, words: str) -> Reason:
    """Returns the reason where a proxy refuses to pass on what it is asked for."""
    advice = (
        f"Does it allow this server? Adding the host to NO_PROXY, or removing {proxy.setting}, "
        "asks the server directly."
    )
    if status == 407:
        advice = f"Give its user and password: {proxy.setting}=http://user:password@host:port."
    return Reason(
        f"the proxy {proxy} refuses: {status} {words}",
        advice,
        passes=status >= 500 or status in (408, 429),
    )


def os_error_text(error: OSError) -> str:
    """Returns the operating system's words where it has some, else the library's."""
    if not error.errno:
        return str(error)
    return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
