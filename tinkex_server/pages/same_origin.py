"""`check_same_origin`: keeps pages of other sites from changing anything by a browser's login.

The cookie is sent with requests of pages on the same site only, but all ports of a host are one
site. So a request that changes something must come from a page of this very server.
"""

from __future__ import annotations

from starlette.requests import Request

from tinkex_server.errors import Reason, Refused


def check_same_origin(request: Request) -> None:
    """Raises `Refused` for a request that another site's page has sent.

    Browsers say in every such request which page sent it. A program that sends its key in a header
    needs no Origin: no page can add that header.
    """
    origin = request.headers.get("origin")
    if origin is None and "x-api-key" in request.headers:
        return
    host = request.headers.get("host", "")
    if origin is None or origin.partition("://")[2] != host:
        raise Refused(
            Reason.FORBIDDEN,
            f"this server takes such requests from its own pages only, not from {origin or 'none'}"
            "; a program uses the API instead",
        )
