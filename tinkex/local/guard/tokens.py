"""JSON web tokens that stand for a key, signed with the server's secret."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from typing import Any

import orjson

from tinkex.local.guard.secret import signature

LIFETIME = 3600
"""Seconds."""
_PURPOSE = "jwt"
_OWNER = "owner"
_HEADER = {"alg": "HS256", "typ": "JWT"}


def is_one(key: str) -> bool:
    """Whether it looks like a token: all begin so."""
    return key.startswith("eyJ")


def issue(secret: bytes, owner: str, claims: Mapping[str, object], now: float) -> str:
    """A token for the holder of a key."""
    times = {"iat": int(now), "exp": int(now) + LIFETIME}
    signed = f"{_encode(_HEADER)}.{_encode({**claims, _OWNER: owner, **times})}"
    return f"{signed}.{_signature(secret, signed)}"


def owner_of(secret: bytes, token: str, now: float) -> str | None:
    """Whose key it stands for; None for one that this server did not issue, or that holds no longer."""
    signed, _, given = token.rpartition(".")
    if not hmac.compare_digest(given.encode(), _signature(secret, signed).encode()):
        return None
    claims = _decode(signed.partition(".")[2])
    return claims[_OWNER] if claims["exp"] > now else None


def _signature(secret: bytes, signed: str) -> str:
    return _base64(signature(secret, _PURPOSE, signed.encode()))


def _encode(value: object) -> str:
    return _base64(orjson.dumps(value))


def _decode(text: str) -> Mapping[str, Any]:
    return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
