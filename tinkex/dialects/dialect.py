"""`Dialect`: what is known of a server's ways, as plain data that every layer reads."""

from __future__ import annotations

from typing import Literal, cast, get_args

from attrs import evolve, frozen
from tinkex_api.models import ClientConfigResponse

from tinkex.config import ChunkLimits

Encoding = Literal["json", "protobuf"]
SeqIdRepeats = Literal["repeats", "refuses", "ignores", "unknown"]
"""What a server does with a repeated (model, seq_id): answers with the first request's promise, refuses, applies it twice."""


@frozen(kw_only=True)
class Dialect:
    """The ways of one server. The defaults are safe on all."""

    chunk_limits: ChunkLimits = ChunkLimits()
    parallel_chunks: bool = False
    """Chunks of one batch together, only where the server says so: some reorder what comes together."""
    seq_id_repeats: SeqIdRepeats = "unknown"
    encoding: Encoding | None = None
    """Of training batches; None until the first one was taken."""
    compress_protobuf: bool = False
    """Whether protobuf bodies are compressed by zstd."""
    joins_samplers: bool = False
    """Whether a copied sampling client asks the server for its number."""
    creates_from_state: bool = False
    """Whether one load_weights makes a model from a checkpoint. Elsewhere weights_info, create_model and load_weights do."""
    runs_custom_losses: bool = False
    """Whether the server takes losses of the user's own; elsewhere the client computes them."""

    @property
    def steps_repeatable(self) -> bool:
        """Whether a training request may be sent again when no answer came."""
        return self.seq_id_repeats == "repeats"


def from_client_config(flags: ClientConfigResponse, chunk_limits: ChunkLimits | None, *, hosted: bool) -> Dialect:
    """What the server says of itself; `chunk_limits` of the user go before its own.

    The hosted service no longer says that it wants protobuf and creates models from checkpoints; it always does
    (openapi/tinker.yaml, ClientConfigResponse).
    """
    dialect = Dialect(
        chunk_limits=chunk_limits
        or ChunkLimits(
            max_items=flags.fwdbwd_max_chunk_len or ChunkLimits().max_items,
            max_size=flags.fwdbwd_max_chunk_bytes_count or ChunkLimits().max_size,
        ),
        parallel_chunks=flags.parallel_fwdbwd_chunks is True,
        encoding="protobuf" if hosted else None,
        compress_protobuf=flags.proto_compress_fwdbwd is True,
        joins_samplers=flags.sample_join_sampling_session is True,
        runs_custom_losses=flags.custom_loss_server_side is True,
        creates_from_state=hosted or flags.create_model_via_load_weights is True,
    )
    if flags.seq_id_repeats in get_args(SeqIdRepeats):
        return evolve(dialect, seq_id_repeats=cast(SeqIdRepeats, flags.seq_id_repeats))
    return dialect


def encodings_to_try(dialect: Dialect) -> tuple[Encoding, ...]:
    """The known encoding; else JSON, which all open servers but a few read, and then the other."""
    return (dialect.encoding,) if dialect.encoding else ("json", "protobuf")


def refuses_encoding(status_code: int, operation: str) -> bool:
    """Whether a refusal may be meant for the body's encoding, so that the other one is worth a try: nothing was taken on.

    The protobuf form of `forward` goes to another route than the JSON one, which newer servers lack. Source: openapi/tinker.yaml,
    forward_backward and forward.
    """
    return status_code in (400, 415, 422) or (operation == "forward" and status_code in (404, 405))
