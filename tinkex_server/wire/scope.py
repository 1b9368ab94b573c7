"""The paths of the API, the keys of what middleware adds to a request's ASGI scope, and the reading
of single headers.
"""

from __future__ import annotations

from starlette.types import Scope

PREFIX = "/api/v1"
OPEN_PATHS = frozenset({f"{PREFIX}/healthz"})
"""The paths that need no API key."""
STATE = "tinkex.state"
"""The key of the `ServerState`."""
OWNER = "tinkex.owner"
"""The key of the id of the API key that came with the request. The scope has none where the server
asks for no key, and for a signed URL.
"""
KEY_SENT_AT = "tinkex.key_sent_at"
"""The key of the time at which the API key was sent that a request's token stands for, in seconds
since 1970. The scope has none where the API key itself was sent.
"""


def header(scope: Scope, name: bytes) -> str | None:
    """Returns a header of a request by its name in lower case: the first of that name, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None
