"""`KeyCheck`: who gets in."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex_server.access.keyring import Keyring
from tinkex_server.wire.responses import json_response
from tinkex_server.wire.scope import OPEN_PATHS, OWNER, VOUCHED


class KeyCheck:
    """Lets a request pass when its X-API-Key is taken, and notes whose it is."""

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if VOUCHED in scope or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
        elif (owner := self._keyring.owner(Headers(scope=scope).get("x-api-key", ""))) is None:
            await json_response(401, {"detail": "X-API-Key is missing or wrong"})(
                scope, receive, send
            )
        else:
            await self._app({**scope, OWNER: owner}, receive, send)
