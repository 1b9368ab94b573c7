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

    @property
    def steps_repeatable(self) -> bool:
        """Whether a training request may be sent again when no answer came."""
        return self.seq_id_repeats == "repeats"


def from_client_config(flags: ClientConfigResponse, chunk_limits: ChunkLimits | None) -> Dialect:
    """What the server says of itself; `chunk_limits` of the user go before its own."""
    dialect = Dialect(
        chunk_limits=chunk_limits
        or ChunkLimits(
            max_items=flags.fwdbwd_max_chunk_len or ChunkLimits().max_items,
            max_size=flags.fwdbwd_max_chunk_bytes_count or ChunkLimits().max_size,
        ),
        parallel_chunks=flags.parallel_fwdbwd_chunks is True,
    )
    if flags.seq_id_repeats in get_args(SeqIdRepeats):
        return evolve(dialect, seq_id_repeats=cast(SeqIdRepeats, flags.seq_id_repeats))
    return dialect
