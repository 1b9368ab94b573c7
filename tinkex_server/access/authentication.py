"""`Authentication`: finds out who sent a request, by the signature of its URL, a token or a key."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex_server.access import tokens
from tinkex_server.access.api_keys import ApiKeys
from tinkex_server.access.signed_urls import BadSignature, Signer
from tinkex_server.errors import Reason, Refused
from tinkex_server.wire.refusals import refusal_response
from tinkex_server.wire.scope import KEY_SENT_AT, OPEN_PATHS, OWNER, header


def is_signed(scope: Scope) -> bool:
    """Returns whether the URL of a request carries a signature, be it valid or not."""
    return b"signature=" in scope["query_string"] and scope["method"] in ("GET", "HEAD", "PUT")


def check_signature(scope: Scope, signer: Signer) -> None:
    """Raises `BadSignature` unless this signer has signed the URL of a request, for now."""
    query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    signer.check(scope["path"], query, time.time())


class Authentication:
    """ASGI middleware that refuses a request unless its signature, token or API key is valid.

    It notes in the request's scope whose key was sent. A request with a signed URL has no owner: it
    may see everything that the signed path leads to.
    """

    def __init__(self, app: ASGIApp, secret: bytes, keys: ApiKeys | None) -> None:
        """Checks only signatures if `keys` is None: every other request passes."""
        self._app = app
        self._secret = secret
        self._signer = Signer(secret)
        self._keys = keys

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (self._refusal(scope) or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if is_signed(scope):
            return self._check_signature(scope)
        if self._keys is None:
            return None
        key = header(scope, b"x-api-key") or ""
        if tokens.is_token(key):
            return self._check_token(scope, key, self._keys)
        if scope["path"] in OPEN_PATHS:
            return None
        return _check_key(scope, key, self._keys)

    def _check_signature(self, scope: Scope) -> Response | None:
        try:
            check_signature(scope, self._signer)
        except BadSignature as error:
            return refusal_response(Refused(Reason.FORBIDDEN, str(error)))
        return None

    def _check_token(self, scope: Scope, token: str, keys: ApiKeys) -> Response | None:
        holder = tokens.holder_of(self._secret, token, time.time())
        if holder is None or not keys.accept_owner(holder.owner):
            detail = (
                "the token has expired or was issued by another server; exchange the API key for a "
                "new one"
            )
            headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            return refusal_response(Refused(Reason.UNAUTHENTICATED, detail), headers)
        scope[OWNER], scope[KEY_SENT_AT] = holder.owner, holder.key_sent_at
        return None


def _check_key(scope: Scope, key: str, keys: ApiKeys) -> Response | None:
    owner = keys.owner(key)
    if owner is None:
        return refusal_response(Refused(Reason.UNAUTHENTICATED, "X-API-Key is missing or wrong"))
    scope[OWNER] = owner
    return None
