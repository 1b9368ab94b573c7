"""The first answers of a server of a profile, by which a client detects its dialect."""

from __future__ import annotations

from typing import Any

from tinkex_api.models import ClientConfigResponse, ClientDynamicConfigResponse

from tinkex.dialects.detect import FirstAnswers, has_route, telling_route
from tinkex_server.profiles import Profile
from tinkex_server.routes import server as embedded


def flags(profile: Profile, operation: str, own: Any, kind: Any) -> Any:
    """Returns the flags that a server of this profile answers; None if it lacks the call."""
    if f"POST {operation}" in profile.missing:
        return None
    reply = profile.replies.get(operation)
    return kind.from_dict(reply.body if reply else own.to_dict())


def has_telling_route(profile: Profile, path: str | None) -> bool | None:
    """Returns what a GET of this path tells of a server of this profile."""
    if path is None:
        return None
    operation = path.removeprefix("/api/v1/")
    there = operation in profile.replies or (
        operation.startswith("samplers/") and "GET samplers/{sampler_id}" not in profile.missing
    )
    return has_route(404, {"detail": "no such thing" if there else "Not Found"})


def first_contact(profile: Profile) -> FirstAnswers:
    """Returns the first answers that a server of this profile gives to a client."""
    config = flags(profile, "client/config", embedded.FLAGS, ClientConfigResponse)
    return FirstAnswers(
        hosted=False,
        config=config,
        dynamic=flags(
            profile, "client/dynamic_config", embedded._CHANGING_FLAGS, ClientDynamicConfigResponse
        )
        if config
        else None,
        has_capabilities="GET get_server_capabilities" not in profile.missing,
        has_health="GET healthz" not in profile.missing,
        request_ids=profile.request_ids,
        has_telling_route=has_telling_route(profile, telling_route(config)),
    )
