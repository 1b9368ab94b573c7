"""Decides where a redirect leads, and whether to follow it. Plain functions of values."""

from __future__ import annotations

from tinkex.transport.port import Answer
from tinkex.transport.urls import MalformedUrl, absolute_url

MAX_REDIRECTS = 5
"""The most redirects to follow in a row."""

_METHOD_KEPT = frozenset({307, 308})


def next_url(method: str, answer: Answer, base_url: str) -> str | None:
    """Returns the URL to which a redirect is followed; None if it is not followed.

    A request that is no GET is only sent to the server that it was meant for, and only if the
    status keeps its method (RFC 9110, 15.4).
    """
    try:
        url = absolute_url(answer.url, answer.headers["location"])
    except MalformedUrl:
        return None
    if method == "GET":
        return url if url.startswith(("http://", "https://")) else None
    return url if answer.status_code in _METHOD_KEPT and url.startswith(f"{base_url}/") else None
