"""Reads the claims of JSON Web Tokens without verifying them; only the server can do that."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson

PREFIX = "eyJ"  # the beginning of a JSON object in base64


def claims(token: str) -> Mapping[str, Any]:
    """Returns the claims of a token. Raises `ValueError` for a text that is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("a JWT has three parts")
    payload = parts[1]
    found: Any = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    if not isinstance(found, dict):
        raise ValueError("the claims of a JWT are an object")
    return found  # pyright: ignore[reportUnknownVariableType]


def lifetime(token: str) -> float | None:
    """Returns the seconds from a token's issue to its expiry; None if it does not give both."""
    try:
        found = claims(token)
        return float(found["exp"]) - float(found["iat"])
    except (ValueError, KeyError, TypeError):
        return None
