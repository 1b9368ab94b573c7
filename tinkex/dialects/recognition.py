"""Which dialect a server speaks, from what it says of itself. Plain values: no I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from attrs import evolve, frozen
from tinkex_api.models import ClientConfigResponse, ClientDynamicConfigResponse

from tinkex.dialects.dialect import Dialect, Encoding, Evidence, SeqIdRepeats
from tinkex.dialects.table import DIALECTS, UNKNOWN


@frozen
class Seen:
    """What a server answered at first contact; None for a call that it lacks."""

    hosted: bool
    config: ClientConfigResponse | None
    dynamic: ClientDynamicConfigResponse | None
    has_capabilities: bool
    has_health: bool


def recognise(seen: Seen) -> Dialect:
    """The dialect of the first sign that fits, with what the server's flags say of it.

    Signs are not proofs, so that a batch which is refused in the dialect's encoding is tried in the other one, too.
    """
    named = next((DIALECTS[name] for name, fits in _SIGNS if fits(seen)), UNKNOWN)
    if named.name not in _PROVEN:
        named = evolve(named, encodings=tuple(dict.fromkeys((*named.encodings, *UNKNOWN.encodings))))
    return with_flags(named, seen.config, seen.dynamic)


def _flags(seen: Seen) -> Mapping[str, Any]:
    return seen.config.to_dict() if seen.config else {}


_PROVEN = ("hosted", "tinkex")
_SIGNS: tuple[tuple[str, Callable[[Seen], bool]], ...] = (
    ("hosted", lambda seen: seen.hosted),
    ("tinkex", lambda seen: "seq_id_repeats" in _flags(seen)),
    ("hatchery", lambda seen: "default_poll_interval_ms" in _flags(seen)),
    ("tinker-cloud", lambda seen: bool(_flags(seen).get("sample_use_retrieve_futures"))),
    ("verl", lambda seen: _flags(seen).get("sample_dispatch_bytes_semaphore_size") == 0),
    ("tuft", lambda seen: "use_pyqwest_transport" in _flags(seen) and "parallel_fwdbwd_chunks" in _flags(seen)),
    # its April release looks the same, and what is safe there is safe here; SkyRL and Arctic have no such size
    (
        "open-rl",
        lambda seen: (
            bool(_flags(seen).get("sample_dispatch_bytes_semaphore_size")) and _flags(seen).get("proto_write_fwdbwd") is False
        ),
    ),
    ("miles", lambda seen: seen.config is not None and not _flags(seen) and seen.dynamic is not None),
    # its newer release cannot be told from this one, and what is safe here is safe there
    ("skyrl-0.3", lambda seen: _flags(seen) == {"pjwt_auth_enabled": False}),
    ("xorl", lambda seen: seen.config is None and not seen.has_capabilities),
    ("tinker-cloud-old", lambda seen: seen.config is None and not seen.has_health),
)
"""Servers that are not here look like others: twinkle and mlx-tinker are both without flags, arctic has the old ones."""

RECOGNISED = frozenset(name for name, _ in _SIGNS)


def with_flags(dialect: Dialect, config: ClientConfigResponse | None, dynamic: ClientDynamicConfigResponse | None) -> Dialect:
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
        parallel_chunks=dialect.parallel_chunks if flags.parallel_fwdbwd_chunks is None else flags.parallel_fwdbwd_chunks,
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
    """What the flags say of keys, as fields of the dialect; to be heeded before anything else is asked."""
    return {
        "exchanges_keys": flags.pjwt_auth_enabled is True,
        "wants_credential_cmd": flags.credential_default_source == "credential_cmd",
    }


def _repeats(flags: ClientConfigResponse) -> SeqIdRepeats | None:
    return cast(SeqIdRepeats, flags.seq_id_repeats) if flags.seq_id_repeats in get_args(SeqIdRepeats) else None


def refuses_encoding(encoding: Encoding, operation: str, status_code: int, body: Any) -> bool:
    """Whether a refusal may be meant for the body's encoding, so that the other one is worth a try: nothing was taken on.

    The protobuf form of `forward` goes to another route than the JSON one, which newer servers lack. A server that reads JSON alone
    may break on the bytes of the other form before it looks at them, and says so in a bare text. Source: openapi/tinker.yaml,
    forward_backward and forward.
    """
    if encoding == "protobuf" and status_code == 500:
        return isinstance(body, str)
    return status_code in (400, 415, 422) or (operation == "forward" and status_code in (404, 405))
