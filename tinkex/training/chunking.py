"""Splits a batch into requests. Plain values: no I/O here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import evolve

from tinkex.dialects.dialect import ChunkLimits, Dialect
from tinkex.types import (
    Datum,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInputChunk,
)

SENT_WHOLE = (
    "a batch over the limits of a chunk is sent whole: this server divides a loss by the contents "
    "of one request, so parts of a batch would train differently from the whole"
)
NOT_SUMMED = (
    "there were several forward_backward before one optim_step, and this server divides their "
    "gradients by the contents of all of them instead of summing them; "
    "give it the whole batch in one forward_backward"
)
# in protobuf's packed form; source: openapi/tinker.yaml, ClientConfigResponse
_BYTES_PER_TOKEN = 4


def limits(given: ChunkLimits | None, dialect: Dialect) -> ChunkLimits:
    """Returns the user's limits, else the server's, capped at the server's largest body."""
    limits = given or dialect.chunk_limits
    if dialect.max_body_bytes is None or limits.unit != "bytes":
        return limits
    return evolve(limits, max_size=min(limits.max_size, dialect.max_body_bytes))


def split(data: Sequence[Datum], limits: ChunkLimits) -> list[Sequence[Datum]]:
    """Returns the data in consecutive chunks, as few as the limits allow.

    A datum that exceeds the limits is a chunk of its own.
    """
    return [
        data[start:stop]
        for start, stop in _borders([size(datum, limits) for datum in data], limits)
    ]


def _borders(sizes: Sequence[int], limits: ChunkLimits) -> Iterator[tuple[int, int]]:
    start = total = 0
    for index, datum_size in enumerate(sizes):
        full = index - start >= limits.max_items or total + datum_size > limits.max_size
        if full and index > start:
            yield start, index
            start, total = index, 0
        total += datum_size
    if start < len(sizes):
        yield start, len(sizes)


def size(datum: Datum, limits: ChunkLimits) -> int:
    """Returns the size of a datum in the unit of the limits."""
    if limits.unit == "tokens":
        return sum(_tokens(chunk) for chunk in datum.model_input.chunks)
    return estimated_bytes(datum.model_input.chunks) + datum.input_bytes


def estimated_bytes(chunks: Sequence[ModelInputChunk]) -> int:
    return sum(_bytes(chunk) for chunk in chunks)


def _tokens(chunk: ModelInputChunk) -> int:
    if isinstance(chunk, (ImageChunk, ImageAssetPointerChunk)):
        return chunk.expected_tokens or 0
    return chunk.length


def _bytes(chunk: ModelInputChunk) -> int:
    if isinstance(chunk, EncodedTextChunk):
        return _BYTES_PER_TOKEN * chunk.length
    if isinstance(chunk, ImageChunk):
        return len(chunk.data)
    if isinstance(chunk, ImageAssetPointerChunk):
        return len(chunk.location)
    return len(chunk.dmel)
