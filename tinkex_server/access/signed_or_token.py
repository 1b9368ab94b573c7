"""What can stand in the place of a key: the signature of a URL, and a token."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex_server.access import tokens
from tinkex_server.access.keyring import Keyring
from tinkex_server.access.signed_urls import BadSignature, Signer
from tinkex_server.wire.responses import json_response
from tinkex_server.wire.scope import KEY_SENT, OWNER, VOUCHED


def is_signed(scope: Scope) -> bool:
    """Whether the request asks to pass by the signature of its URL, right or wrong."""
    return b"signature=" in scope["query_string"] and scope["method"] in ("GET", "HEAD", "PUT")


class SignedOrTokenCheck:
    """Marks the requests that come with either, and refuses those whose voucher does not hold."""

    def __init__(self, app: ASGIApp, secret: bytes, keyring: Keyring | None) -> None:
        """Without a `keyring` no key is asked for."""
        self._app = app
        self._secret = secret
        self._signer = Signer(secret)
        self._keyring = keyring

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if is_signed(scope):
            refusal = self._check_signature(scope)
        elif self._keyring and tokens.is_one(token := Headers(scope=scope).get("x-api-key", "")):
            refusal = self._check_token(scope, token, self._keyring)
        else:
            refusal = None
        return (refusal or self._app)(scope, receive, send)

    def _check_signature(self, scope: Scope) -> Response | None:
        """It sees all, of the one path that was signed."""
        try:
            self._signer.check(
                scope["path"], dict(parse_qsl(scope["query_string"].decode("latin-1"))), time.time()
            )
        except BadSignature as error:
            return json_response(403, {"detail": str(error)})
        scope[VOUCHED] = True
        return None

    def _check_token(self, scope: Scope, token: str, keyring: Keyring) -> Response | None:
        holder = tokens.holder_of(self._secret, token, time.time())
        if holder is None or not keyring.takes_from(holder.owner):
            response = json_response(
                401,
                {
                    "detail": "the token has expired, or is not of this server; exchange the key anew"
                },
            )
            response.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
            return response
        scope[VOUCHED], scope[OWNER], scope[KEY_SENT] = True, holder.owner, holder.since
        return None
