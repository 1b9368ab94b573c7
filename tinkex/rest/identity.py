"""Who a JWT says that its holder is."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from tinkex.errors import InvalidInputError
from tinkex.types import WhoamiResponse


def identity(credential: str | None) -> WhoamiResponse:
    """From the claims of a JWT, whose signature is the server's to check. Raises `InvalidInputError` for any other credential."""
    claims = _claims(credential or "")
    if claims is None or not {"sub", "org_id"} <= claims.keys():
        raise InvalidInputError(
            "the API key is not a JWT that names its holder",
            operation="whoami",
            advice="get_api_key_info asks the server, where it has that call.",
        )
    return WhoamiResponse(
        user_urn=claims["sub"],
        org_urn=f"tml:organization:{claims['org_id']}",
        email=claims.get("email"),
    )


def _claims(token: str) -> dict[str, Any] | None:
    _, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    if not (payload and signature):
        return None
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None  # pyright: ignore[reportUnknownVariableType]
