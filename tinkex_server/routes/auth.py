"""The routes of API keys: the exchange for a token, the description, and the revocation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    ApiKeyDetails,
    ApiKeyInfoResponse,
    ApiKeyOrganization,
    AuthTokenRequest,
    AuthTokenResponse,
)

from tinkex_server.access import tokens
from tinkex_server.errors import not_found
from tinkex_server.routes.support.endpoint import Call, delete, get, post
from tinkex_server.routes.support.formatting import ORGANIZATION, user_urn
from tinkex_server.state import ServerState
from tinkex_server.store import KeyRow
from tinkex_server.wire.scope import KEY_SENT_AT


async def exchange(state: ServerState, call: Call[AuthTokenRequest]) -> Mapping[str, Any]:
    owner = call.access.new_owner
    claims = {"sub": user_urn(owner), "org_id": ORGANIZATION}
    now = time.time()
    holder = tokens.Holder(owner, call.scope.get(KEY_SENT_AT, now))
    return AuthTokenResponse(tokens.issue(state.secret, holder, claims, now)).to_dict()


async def describe_key(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    key = _key(state, call)
    return ApiKeyInfoResponse(
        key.key_id, key.name, "", ApiKeyDetails(ApiKeyOrganization(ORGANIZATION))
    ).to_dict()


async def revoke(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    """Revokes the caller's key. From the next request on, the key and its tokens are refused."""
    key, now = _key(state, call), time.time()
    state.store.keys.revoke(key.key_id, now)
    state.store.audit.add(call.access.new_owner, "apikey.revoked", {"key_id": key.key_id}, now)
    return {}


def _key(state: ServerState, call: Call[None]) -> KeyRow:
    key = state.store.keys.get(int(call.access.owner)) if call.access.owner else None
    if key is None:
        raise not_found("this server does not use API keys")
    return key


ROUTES = [
    post("/auth/token", AuthTokenRequest, exchange),
    get("/auth/apikey/me", describe_key),
    delete("/auth/apikey/me", revoke),
]
