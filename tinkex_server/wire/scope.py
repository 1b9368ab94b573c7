"""Paths of the API, and the keys under which a request's ASGI scope holds what was found out about
it.
"""

from __future__ import annotations

PREFIX = "/api/v1"
OPEN_PATHS = frozenset({f"{PREFIX}/healthz"})
STATE = "tinkex.state"
"""Where a request's scope holds the `ServerState`."""
OWNER = "tinkex.owner"
"""Where a request's scope holds whose key came with it; nothing where no key is asked for."""
KEY_SENT = "tinkex.key_sent"
"""When the key was sent that a request's token stands for, in seconds since 1970; nothing where the
key itself came.
"""
VOUCHED = "tinkex.vouched"
"""True in the scope of a request that needs no key: it came by a signed URL, or with a token."""
