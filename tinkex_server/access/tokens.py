"""JSON web tokens that stand for an API key, signed with the server's secret."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import frozen

from tinkex_server.access.secret import signature

LIFETIME = 3600
"""The seconds for which a token is valid."""
RENEWAL_PERIOD = 24 * 3600
"""The seconds after the API key was last sent in which a token can be exchanged for a new one."""
_PURPOSE = "jwt"
_OWNER = "owner"
_KEY_SENT_AT = "auth_time"
_HEADER = {"alg": "HS256", "typ": "JWT"}


def is_token(key: str) -> bool:
    """Returns whether a text has the form of a token: all tokens begin in the same way."""
    return key.startswith("eyJ")


@frozen
class Holder:
    """The holder of a token."""

    owner: str
    """The id of the API key that the token stands for."""
    key_sent_at: float
    """The time at which the API key itself was last sent, in seconds since 1970."""


def issue(secret: bytes, holder: Holder, claims: Mapping[str, object], now: float) -> str:
    """Returns a new token.

    It is valid for `LIFETIME`, but no longer than `RENEWAL_PERIOD` after the key was sent.
    """
    times = {
        "iat": int(now),
        "exp": int(min(now + LIFETIME, holder.key_sent_at + RENEWAL_PERIOD)),
        _KEY_SENT_AT: int(holder.key_sent_at),
    }
    signed = f"{_encode(_HEADER)}.{_encode({**claims, _OWNER: holder.owner, **times})}"
    return f"{signed}.{_signature(secret, signed)}"


def holder_of(secret: bytes, token: str, now: float) -> Holder | None:
    """Returns the holder of a token, or None if this server did not issue it or it has expired."""
    signed, _, given = token.rpartition(".")
    if not hmac.compare_digest(given.encode(), _signature(secret, signed).encode()):
        return None
    claims = _decode(signed.partition(".")[2])
    if claims["exp"] <= now:
        return None
    return Holder(claims[_OWNER], claims.get(_KEY_SENT_AT, claims["iat"]))


def _signature(secret: bytes, signed: str) -> str:
    return _base64(signature(secret, _PURPOSE, signed.encode()))


def _encode(value: object) -> str:
    return _base64(orjson.dumps(value))


def _decode(text: str) -> Mapping[str, Any]:
    return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
