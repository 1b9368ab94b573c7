"""Which dialect a server speaks, from what it says of itself. Plain values: no I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from attrs import evolve, frozen
from tinkex_api.models import ClientConfigResponse, ClientDynamicConfigResponse

from tinkex.dialects.dialect import Dialect, Encoding, Evidence, SeqIdRepeats
from tinkex.dialects.table import DIALECTS, UNKNOWN


@frozen
class FirstAnswers:
    """What a server answered at first contact; None for a call that it lacks."""

    hosted: bool
    config: ClientConfigResponse | None
    dynamic: ClientDynamicConfigResponse | None
    has_capabilities: bool
    has_health: bool
    request_ids: bool = False
    """Whether the answer that refused to give the flags carried an `x-request-id`."""
    has_telling_route: bool | None = None
    """Whether it has the route of `telling_route`; None where that was not asked, or the answer
    does not say.
    """


def recognise(seen: FirstAnswers) -> Dialect:
    """The dialect of the first sign that fits, with what the server's flags say of it.

    Signs are not proofs, so that a batch which is refused in the dialect's encoding is tried in the
    other one, too.
    """
    named = next((DIALECTS[name] for name, fits in _SIGNS if fits(seen)), UNKNOWN)
    if named.name not in _PROVEN:
        named = evolve(
            named, encodings=tuple(dict.fromkeys((*named.encodings, *UNKNOWN.encodings)))
        )
    return with_flags(named, seen.config, seen.dynamic)


def _flags(seen: FirstAnswers) -> Mapping[str, Any]:
    return seen.config.to_dict() if seen.config else {}


def telling_route(config: ClientConfigResponse | None) -> str | None:
    """The path whose GET tells apart servers that have these flags, by whether there is such a
    route; None where there is nothing to ask.
    """
    flags = config.to_dict() if config else {}
    return next((path for path, fits in _TELLING if fits(flags)), None)


_NO_ROUTE = frozenset({"not found", "404 not found", "404: not found", "404 page not found"})
"""How frameworks say in plain text that there is no such route."""


def is_missing_route(status_code: int, body: Any) -> bool:
    """Whether a refusal says that there is no such route, by the words of the frameworks that the
    servers are made with; what a call looks for and does not find is told otherwise.
    """
    if status_code == 404 and isinstance(body, str):
        return body.strip().lower() in _NO_ROUTE
    return status_code in (405, 501) or (
        status_code == 404 and body in ({"detail": "Not Found"}, {"error": "Not Found"})
    )


def has_route(status_code: int, body: Any) -> bool | None:
    """Whether the answer to a GET shows that the server has its route; None for what may come from
    something before the server.
    """
    if is_missing_route(status_code, body):
        return False
    is_its_own = (
        isinstance(body, (dict, list)) and status_code < 500 and status_code not in (401, 403)
    )
    return True if is_its_own else None


def _is_skyrl(flags: Mapping[str, Any]) -> bool:
    return flags == {"pjwt_auth_enabled": False}


def _is_open_rl(flags: Mapping[str, Any]) -> bool:
    """SkyRL and Arctic have no such size."""
    return (
        bool(flags.get("sample_dispatch_bytes_semaphore_size"))
        and flags.get("proto_write_fwdbwd") is False
    )


def _is_like_spindle(flags: Mapping[str, Any]) -> bool:
    """The hosted service behind another address may have these flags as well."""
    return (
        "proto_write_fwdbwd" in flags
        and flags.get("parallel_fwdbwd_chunks") is True
        and bool(flags.get("create_model_via_load_weights"))
    )


_TELLING: tuple[tuple[str, Callable[[Mapping[str, Any]], bool]], ...] = (
    ("/profiling_status", _is_skyrl),
    ("/api/v1/samplers/none", _is_open_rl),
    ("/api/v1/spindle/deployments", _is_like_spindle),
)

_PROVEN = ("hosted", "tinkex", "spindle")
_SIGNS: tuple[tuple[str, Callable[[FirstAnswers], bool]], ...] = (
    ("hosted", lambda seen: seen.hosted),
    ("tinkex", lambda seen: "seq_id_repeats" in _flags(seen)),
    ("hatchery", lambda seen: "default_poll_interval_ms" in _flags(seen)),
    ("tinker-cloud", lambda seen: bool(_flags(seen).get("sample_use_retrieve_futures"))),
    ("verl", lambda seen: _flags(seen).get("sample_dispatch_bytes_semaphore_size") == 0),
    (
        "tuft",
        lambda seen: (
            "use_pyqwest_transport" in _flags(seen) and "parallel_fwdbwd_chunks" in _flags(seen)
        ),
    ),
    # its April release has the same flags, and no such call
    ("open-rl-old", lambda seen: _is_open_rl(_flags(seen)) and seen.has_telling_route is False),
    ("open-rl", lambda seen: _is_open_rl(_flags(seen))),
    ("spindle", lambda seen: _is_like_spindle(_flags(seen)) and seen.has_telling_route is True),
    (
        "miles",
        lambda seen: seen.config is not None and not _flags(seen) and seen.dynamic is not None,
    ),
    ("skyrl-0.4", lambda seen: _is_skyrl(_flags(seen)) and seen.has_telling_route is True),
    # its main of August cannot be told from this one, and what is safe here is safe there
    ("skyrl-0.3", lambda seen: _is_skyrl(_flags(seen))),
    ("xorl", lambda seen: seen.config is None and not seen.has_capabilities),
    ("tinker-cloud-old", lambda seen: seen.config is None and not seen.has_health),
    ("twinkle", lambda seen: seen.config is None and seen.request_ids),
)
"""Servers that are not here look like others: mlx-tinker has no flags, arctic has the old ones."""

RECOGNISED = frozenset(name for name, _ in _SIGNS)


def with_flags(
    dialect: Dialect,
    config: ClientConfigResponse | None,
    dynamic: ClientDynamicConfigResponse | None,
) -> Dialect:
    """The dialect as the server's own flags have it, where they say something."""
    flags, changing = config or ClientConfigResponse(), dynamic or ClientDynamicConfigResponse()
    limits = dialect.chunk_limits
    if said := _repeats(flags):
        dialect = dialect.with_known(Evidence("said"), seq_id_repeats=said)
    return evolve(
        dialect,
        chunk_limits=evolve(
            limits,
            max_items=flags.fwdbwd_max_chunk_len or limits.max_items,
            max_size=flags.fwdbwd_max_chunk_bytes_count or limits.max_size,
        ),
        parallel_chunks=dialect.parallel_chunks
        if flags.parallel_fwdbwd_chunks is None
        else flags.parallel_fwdbwd_chunks,
        **key_flags(flags),
        compress_protobuf=flags.proto_compress_fwdbwd is True,
        joins_samplers=dialect.joins_samplers or flags.sample_join_sampling_session is True,
        bulk_results=dialect.bulk_results or flags.sample_use_retrieve_futures is True,
        cancels=dialect.cancels or changing.sample_cancel_enabled is True,
        cancels_at_once=changing.sample_cancel_max_batch_size or dialect.cancels_at_once,
        runs_custom_losses=flags.custom_loss_server_side is True,
        resume="by_session" if flags.create_model_via_load_weights else dialect.resume,
    )


def key_flags(flags: ClientConfigResponse) -> Mapping[str, bool]:
    """What the flags say of keys, as fields of the dialect; to be heeded before anything else is
    asked.
    """
    return {
        "exchanges_keys": flags.pjwt_auth_enabled is True,
        "wants_credential_cmd": flags.credential_default_source == "credential_cmd",
    }


def _repeats(flags: ClientConfigResponse) -> SeqIdRepeats | None:
    return (
        cast(SeqIdRepeats, flags.seq_id_repeats)
        if flags.seq_id_repeats in get_args(SeqIdRepeats)
        else None
    )


def refuses_encoding(encoding: Encoding, operation: str, status_code: int, body: Any) -> bool:
    """Whether a refusal may be meant for the body's encoding, so that the other one is worth a try:
    nothing was taken on.

    The protobuf form of `forward` goes to another route than the JSON one, which newer servers
    lack. A server that reads JSON alone may break on the bytes of the other form before it looks at
    them, and says so in a bare text. Source: openapi/tinker.yaml, forward_backward and forward.
    """
    if encoding == "protobuf" and status_code == 500:
        return isinstance(body, str)
    return status_code in (400, 415, 422) or (operation == "forward" and status_code in (404, 405))
