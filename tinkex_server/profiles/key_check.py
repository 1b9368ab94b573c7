"""The check of API keys as a profile's server does it."""

from __future__ import annotations

import hmac

from starlette.requests import Request

from tinkex_server.profiles.profile import Auth
from tinkex_server.wire.refusals import RefusedWithStatus


def check_key(auth: Auth | None, api_key: str | None, operation: str, request: Request) -> None:
    """Raises `Refused` for a request without a key, or with another key than `api_key`. If
    `api_key` is None, any key will do.
    """
    if auth is None or operation in auth.open_to_all:
        return
    given = [
        request.headers[name].removeprefix("Bearer ")
        for name in auth.headers
        if name in request.headers
    ]
    if not given:
        raise RefusedWithStatus(auth.missing, f"Missing {' or '.join(auth.headers)}")
    if api_key and not any(
        hmac.compare_digest(key.encode("latin-1"), api_key.encode()) for key in given
    ):
        raise RefusedWithStatus(auth.wrong, "Invalid API key")
