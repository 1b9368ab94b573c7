"""`Logins`: the browsers that are logged in. A browser sends its key once, and after that a secret
cookie.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl

from attrs import define, field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

OwnerOf: TypeAlias = Callable[[str], str | None]
"""A function that returns the owner of a key, or None for an invalid key."""

_COOKIE = "tinkex_login"
_MAX_FORM_BYTES = 4096


@define(eq=False)
class Logins:
    """The keys of browsers that are logged in, by the random secrets in their cookies.

    A browser sends its cookies to every port of a host, so a cookie must not hold the key itself.
    A secret is worth nothing elsewhere, or after a restart. The owner of a key is looked up for
    each request, since keys can be revoked.
    """

    owner_of: OwnerOf
    _keys: dict[str, str] = field(factory=dict[str, str])

    def owner(self, request: Request) -> str | None:
        """Returns the owner whose data the sender may see, or None if it is not logged in."""
        key = request.headers.get("x-api-key") or self._keys.get(request.cookies.get(_COOKIE, ""))
        return None if key is None else self.owner_of(key)

    def begin(self, key: str, response: Response, *, https: bool) -> bool:
        """Logs the browser in by `response`, if the key is valid; returns whether it is."""
        if self.owner_of(key) is None:
            return False
        secret = secrets.token_urlsafe(32)
        self._keys[secret] = key
        response.set_cookie(_COOKIE, secret, httponly=True, samesite="strict", secure=https)
        return True

    def end(self, request: Request, response: Response) -> None:
        """Logs the browser out by `response`."""
        self._keys.pop(request.cookies.get(_COOKIE, ""), None)
        response.delete_cookie(_COOKIE, httponly=True, samesite="strict")


async def read_form(request: Request) -> Mapping[str, str]:
    """Returns the fields of a form. Raises `HTTPException` for one that is too long."""
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > _MAX_FORM_BYTES:
            raise HTTPException(413)
    return dict(parse_qsl(raw.decode("latin-1")))
