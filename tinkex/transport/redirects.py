"""Where a redirect leads, and whether the same request may go there. Plain functions of values."""

from __future__ import annotations

import httpx

MAX_REDIRECTS = 5
"""After so many in a row the last one is the answer."""

_METHOD_KEPT = frozenset({307, 308})


def absolute(url: str, location: str) -> str:
    """The URL that the Location of an answer of `url` means."""
    return str(httpx.URL(url).join(location))


def next_url(method: str, response: httpx.Response, base_url: str) -> str | None:
    """Where the same request is to go after this answer; None where it is not to be sent on.

    What changes something, or carries a batch, goes nowhere but to the server that it was meant
    for, and only where the status keeps its method (RFC 9110, 15.4).
    """
    try:
        url = absolute(str(response.request.url), response.headers["location"])
    except httpx.InvalidURL:
        return None
    if method == "GET":
        return url if url.startswith(("http://", "https://")) else None
    return url if response.status_code in _METHOD_KEPT and url.startswith(f"{base_url}/") else None
