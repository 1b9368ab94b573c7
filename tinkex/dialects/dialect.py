"""`Dialect`: what is known of a server's ways, as plain data that every layer reads."""

from __future__ import annotations

from typing import Literal, cast, get_args

from attrs import evolve, frozen
from tinkex_api.models import ClientConfigResponse

from tinkex.config import ChunkLimits

SeqIdRepeats = Literal["repeats", "refuses", "ignores", "unknown"]
"""What a server does with a repeated (model, seq_id): answers with the first request's promise, refuses, applies it twice."""


@frozen(kw_only=True)
class Dialect:
    """The ways of one server. The defaults are safe on all."""

    chunk_limits: ChunkLimits = ChunkLimits()
    parallel_chunks: bool = False
    """Chunks of one batch together, only where the server says so: some reorder what comes together."""
    seq_id_repeats: SeqIdRepeats = "unknown"
    creates_from_state: bool = False
    """Whether one load_weights makes a model from a checkpoint. Elsewhere weights_info, create_model and load_weights do."""

    @property
    def steps_repeatable(self) -> bool:
        """Whether a training request may be sent again when no answer came."""
        return self.seq_id_repeats == "repeats"


def from_client_config(flags: ClientConfigResponse, chunk_limits: ChunkLimits | None, *, hosted: bool) -> Dialect:
    """What the server says of itself; `chunk_limits` of the user go before its own.

    The hosted service no longer says that it creates models from checkpoints; it always does (openapi/tinker.yaml, ClientConfigResponse).
    """
    dialect = Dialect(
        chunk_limits=chunk_limits
        or ChunkLimits(
            max_items=flags.fwdbwd_max_chunk_len or ChunkLimits().max_items,
            max_size=flags.fwdbwd_max_chunk_bytes_count or ChunkLimits().max_size,
        ),
        parallel_chunks=flags.parallel_fwdbwd_chunks is True,
        creates_from_state=hosted or flags.create_model_via_load_weights is True,
    )
    if flags.seq_id_repeats in get_args(SeqIdRepeats):
        return evolve(dialect, seq_id_repeats=cast(SeqIdRepeats, flags.seq_id_repeats))
    return dialect
