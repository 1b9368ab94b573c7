"""Reasons for which a server cannot be reached. No I/O here."""

from __future__ import annotations

import os

import httpx
from attrs import frozen

from tinkex.config.proxies import Proxy
from tinkex.errors import Fault


@frozen
class Reason:
    """A reason, and advice for the user."""

    text: str
    advice: str
    fault: Fault = "user"
    retryable: bool = False
    """Whether another attempt may succeed."""


class Unreachable(httpx.ConnectError):
    """A connection error whose reason is known."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


def proxy_refused(proxy: Proxy, status: int, words: str) -> Reason:
    """Returns the reason for a proxy that refuses a request."""
    advice = (
        f"Does it allow this server? Add the host to NO_PROXY, or remove {proxy.setting}, to "
        "connect to the server directly."
    )
    if status == 407:
        advice = (
            f"Give the proxy's user and password: {proxy.setting}=http://user:password@host:port."
        )
    return Reason(
        f"the proxy {proxy} refuses: {status} {words}",
        advice,
        retryable=status >= 500 or status in (408, 429),
    )


def os_error_text(error: OSError) -> str:
    """Returns the operating system's text for an error; without one, the library's."""
    if not error.errno:
        return str(error)
    return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
