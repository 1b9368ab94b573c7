"""Recognises the dialect of a server by its first answers. Plain values: no I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from attrs import evolve, frozen
from tinkex_api.models import ClientConfigResponse, ClientDynamicConfigResponse

from tinkex.dialects.dialect import Dialect, Encoding, Evidence, SeqIdRepeats
from tinkex.dialects.table import DIALECTS, UNKNOWN


@frozen
class FirstAnswers:
    """The answers of a server at first contact; None for a call that it lacks."""

    hosted: bool
    config: ClientConfigResponse | None
    dynamic: ClientDynamicConfigResponse | None
    has_capabilities: bool
    has_health: bool
    request_ids: bool = False
    """Whether the refusal of the call for flags carried an `x-request-id`."""
    has_telling_route: bool | None = None
    """Whether it has the route of `telling_route`; None if that was not asked or is unclear."""


def recognise(seen: FirstAnswers) -> Dialect:
    """Returns the dialect of the first sign that matches, adapted to the server's flags.

    Most signs are not proofs. A batch that the server refuses in the dialect's encoding is
    therefore sent in the other one, too.
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
    """Returns the path of a route that distinguishes servers with the same flags, by whether they
    have it; None if there is nothing to ask.
    """
    flags = config.to_dict() if config else {}
    return next((path for path, fits in _TELLING if fits(flags)), None)


_NO_ROUTE = frozenset({"not found", "404 not found", "404: not found", "404 page not found"})
"""The plain texts with which web frameworks answer an unknown route."""


def is_missing_route(status_code: int, body: Any) -> bool:
    """Returns whether a refusal means that there is no such route.

    It is recognised by the words of the web frameworks that servers use. A missing object, such as
    a model, has other words.
    """
    if status_code == 404 and isinstance(body, str):
        return body.strip().lower() in _NO_ROUTE
    return status_code in (405, 501) or (
        status_code == 404 and body in ({"detail": "Not Found"}, {"error": "Not Found"})
    )


def has_route(status_code: int, body: Any) -> bool | None:
    """Returns whether the answer to a GET shows that the server has the route; None if it may come
    from a proxy.
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
    """Returns whether the flags are those of open-rl. SkyRL and Arctic lack the size."""
    return (
        bool(flags.get("sample_dispatch_bytes_semaphore_size"))
        and flags.get("proto_write_fwdbwd") is False
    )


def _is_like_spindle(flags: Mapping[str, Any]) -> bool:
    """Returns whether the flags may be those of Spindle. The hosted service behind another address
    may have them, too.
    """
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
    # its April release has the same flags, but lacks the call
    ("open-rl-old", lambda seen: _is_open_rl(_flags(seen)) and seen.has_telling_route is False),
    ("open-rl", lambda seen: _is_open_rl(_flags(seen))),
    ("spindle", lambda seen: _is_like_spindle(_flags(seen)) and seen.has_telling_route is True),
    (
        "miles",
        lambda seen: seen.config is not None and not _flags(seen) and seen.dynamic is not None,
    ),
    ("skyrl-0.4", lambda seen: _is_skyrl(_flags(seen)) and seen.has_telling_route is True),
    # its main branch of August has the same signs, and what is safe for one is safe for both
    ("skyrl-0.3", lambda seen: _is_skyrl(_flags(seen))),
    ("xorl", lambda seen: seen.config is None and not seen.has_capabilities),
    ("tinker-cloud-old", lambda seen: seen.config is None and not seen.has_health),
    ("twinkle", lambda seen: seen.config is None and seen.request_ids),
)
"""The signs of each dialect. Servers without a sign look like others: mlx-tinker has no flags,
arctic has the old ones.
"""

RECOGNISED = frozenset(name for name, _ in _SIGNS)


def with_flags(
    dialect: Dialect,
    config: ClientConfigResponse | None,
    dynamic: ClientDynamicConfigResponse | None,
) -> Dialect:
    """Returns the dialect with the values that the server's own flags give."""
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
        reports_state_loss=flags.reports_state_loss is True,
        resume="by_session" if flags.create_model_via_load_weights else dialect.resume,
    )


def key_flags(flags: ClientConfigResponse) -> Mapping[str, bool]:
    """Returns the fields of the dialect that concern keys, from the flags. They are needed before
    the next request.
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
    """Returns whether a refusal may be due to the body's encoding, so that the other one may work.

    In such a case the server did not accept the request. The protobuf form of `forward` has another
    route than the JSON one, which newer servers lack. A server that reads only JSON may fail on
    protobuf bytes before it examines them, and answers with a plain text. Source:
    openapi/tinker.yaml, forward_backward and forward.
    """
    if encoding == "protobuf" and status_code == 500:
        return isinstance(body, str)
    return status_code in (400, 415, 422) or (operation == "forward" and status_code in (404, 405))
