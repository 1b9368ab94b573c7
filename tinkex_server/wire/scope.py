"""The paths of the API, and the keys of what middleware adds to a request's ASGI scope."""

from __future__ import annotations

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
