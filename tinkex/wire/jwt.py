"""The claims of a JSON Web Token, unverified: only its server can tell whether they hold."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson

PREFIX = "eyJ"  # with which the base64 of a JSON object begins


def claims(token: str) -> Mapping[str, Any]:
    """Raises `ValueError` for a text that is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("a JWT has three parts")
    payload = parts[1]
    found: Any = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    if not isinstance(found, dict):
        raise ValueError("the claims of a JWT are an object")
    return found  # pyright: ignore[reportUnknownVariableType]


def lifetime(token: str) -> float | None:
    """Seconds from its issue to its end; None where it does not say, or is no JWT."""
    try:
        found = claims(token)
        return float(found["exp"]) - float(found["iat"])
    except (ValueError, KeyError, TypeError):
        return None
