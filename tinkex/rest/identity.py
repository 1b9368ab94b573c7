"""Reads the identity of a JWT's holder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinkex.errors import InvalidInputError
from tinkex.types import WhoamiResponse
from tinkex.wire import jwt


def identity(credential: str | None) -> WhoamiResponse:
    """Returns the identity that a JWT claims; only the server can check its signature. Raises
    `InvalidInputError` for any other credential.
    """
    claims = _claims(credential or "")
    if claims is None or not {"sub", "org_id"} <= claims.keys():
        raise InvalidInputError(
            "the API key is not a JWT that names its holder",
            operation="whoami",
            advice="Call get_api_key_info, which asks the server.",
        )
    return WhoamiResponse(
        user_urn=claims["sub"],
        org_urn=f"tml:organization:{claims['org_id']}",
        email=claims.get("email"),
    )


def _claims(credential: str) -> Mapping[str, Any] | None:
    try:
        return jwt.claims(credential)
    except ValueError:
        return None
