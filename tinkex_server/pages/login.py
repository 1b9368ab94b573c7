"""Who looks at the pages: a browser shows its key once, and then a secret that stands for it."""

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
"""Whose a key is; None for one that is not taken."""

_COOKIE = "tinkex_login"
_LONGEST = 4096  # bytes of a form


@define(eq=False)
class Logins:
    """The browsers that have shown a key. They keep a random secret, which is worth nothing
    elsewhere or after a restart.

    A browser sends its cookies to every port of a host, so a cookie must not hold the key itself.
    Whose the key is, is asked each time, since keys are revoked.
    """

    owner_of: OwnerOf
    _keys: dict[str, str] = field(factory=dict[str, str])

    def owner(self, request: Request) -> str | None:
        """Whose things the sender may see; None for a stranger."""
        key = request.headers.get("x-api-key") or self._keys.get(request.cookies.get(_COOKIE, ""))
        return None if key is None else self.owner_of(key)

    def begin(self, key: str, response: Response, *, https: bool) -> bool:
        """Whether the key is taken; `response` then logs the browser in."""
        if self.owner_of(key) is None:
            return False
        secret = secrets.token_urlsafe(32)
        self._keys[secret] = key
        response.set_cookie(_COOKIE, secret, httponly=True, samesite="strict", secure=https)
        return True

    def end(self, request: Request, response: Response) -> None:
        self._keys.pop(request.cookies.get(_COOKIE, ""), None)
        response.delete_cookie(_COOKIE, httponly=True, samesite="strict")


async def read_form(request: Request) -> Mapping[str, str]:
    """Raises `HTTPException` for one that is too long."""
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > _LONGEST:
            raise HTTPException(413)
    return dict(parse_qsl(raw.decode("latin-1")))
