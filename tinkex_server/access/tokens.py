"""JSON web tokens that stand for a key, signed with the server's secret."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import frozen

from tinkex_server.access.secret import signature

LIFETIME = 3600
"""Seconds."""
RENEWED = 24 * 3600
"""Seconds for which a token can be had for a token, since the key was sent last."""
_PURPOSE = "jwt"
_OWNER = "owner"
_SINCE = "auth_time"
_HEADER = {"alg": "HS256", "typ": "JWT"}


def is_one(key: str) -> bool:
    """Whether it looks like a token: all begin so."""
    return key.startswith("eyJ")


@frozen
class Holder:
    """The owner whose key a token stands for, and when that key itself was sent, in seconds since
    1970.
    """

    owner: str
    since: float


def issue(secret: bytes, holder: Holder, claims: Mapping[str, object], now: float) -> str:
    """A token for the holder of a key. One that is had for another token holds no longer than
    `RENEWED` after the key was sent.
    """
    times = {
        "iat": int(now),
        "exp": int(min(now + LIFETIME, holder.since + RENEWED)),
        _SINCE: int(holder.since),
    }
    signed = f"{_encode(_HEADER)}.{_encode({**claims, _OWNER: holder.owner, **times})}"
    return f"{signed}.{_signature(secret, signed)}"


def holder_of(secret: bytes, token: str, now: float) -> Holder | None:
    """Returns whose key it stands for; None for one that this server did not issue, or that holds
    no longer.
    """
    signed, _, given = token.rpartition(".")
    if not hmac.compare_digest(given.encode(), _signature(secret, signed).encode()):
        return None
    claims = _decode(signed.partition(".")[2])
    return (
        Holder(claims[_OWNER], claims.get(_SINCE, claims["iat"])) if claims["exp"] > now else None
    )


def _signature(secret: bytes, signed: str) -> str:
    return _base64(signature(secret, _PURPOSE, signed.encode()))


def _encode(value: object) -> str:
    return _base64(orjson.dumps(value))


def _decode(text: str) -> Mapping[str, Any]:
    return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
