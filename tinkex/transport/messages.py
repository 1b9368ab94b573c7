"""The headers that every request has, and the query parameters of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinkex._version import __version__
from tinkex.config import Config
from tinkex.transport.response_body import ENCODINGS

_USER_AGENT = f"tinkex/{__version__}"
PUBLIC_HEADERS: Mapping[str, str] = {"User-Agent": _USER_AGENT, "Accept-Encoding": ENCODINGS}
"""The headers of requests to other servers, which get neither the key nor the user's headers."""
UNCOMPRESSED: Mapping[str, str] = {"Accept-Encoding": "identity"}
"""The header that asks for a body without compression."""


def constant_headers(config: Config, request_id: str) -> dict[str, str]:
    """Returns the headers of every request. Those of the user replace those of the client."""
    ours = {
        **PUBLIC_HEADERS,
        "Accept": "application/json",
        "X-Request-Id": request_id,  # one server uses it for routing
        **_cloudflare(config),
    }
    given = {name.lower() for name in config.default_headers}
    return {
        **{name: value for name, value in ours.items() if name.lower() not in given},
        **config.default_headers,
    }


def with_default_query(
    query: Mapping[str, Any] | None, defaults: Mapping[str, str]
) -> Mapping[str, Any] | None:
    return {**defaults, **(query or {})} if defaults else query


def _cloudflare(config: Config) -> Mapping[str, str]:
    """Returns the headers for Cloudflare Access, if the settings have its credentials."""
    client, secret = config.cf_access_client_id, config.cf_access_client_secret
    return (
        {"CF-Access-Client-Id": client, "CF-Access-Client-Secret": secret}
        if client and secret
        else {}
    )
