"""How much a server takes on, and how long it keeps what nobody asks for. Plain values."""

from __future__ import annotations

from attrs import frozen

from tinkex_server.errors import malformed

_DAY = 24 * 3600.0


@frozen(kw_only=True)
class Limits:
    """The bounds of one server. What goes beyond one is refused with the bound in the text."""

    body_bytes: int = 64 << 20
    """Of a request's body, as it comes and decompressed."""
    upload_bytes: int = 4 << 30
    """Of one file of an adapter that is uploaded."""
    datums: int = 8192
    """In one batch."""
    tokens: int = 1 << 22
    """In one batch, or in one prompt."""
    rank: int = 256
    """Of a LoRA adapter."""
    models: int = 256
    """In memory at once, in training."""
    samplers: int = 64
    """Weights that are kept in memory to be sampled; those not used for longest are loaded again
    when they are.
    """
    num_samples: int = 1024
    """Of one prompt."""
    top_tokens: int = 1024
    """That are told of a position, beside the one that is there."""
    told: int = 1 << 22
    """Such tokens in the result of one request."""
    pending: int = 10_000
    """Requests taken on and not done. When there are so many, others are answered 429."""

    result_seconds: float = _DAY
    """How long the result of a request is kept after it was done; then it is answered 410."""
    result_bytes: int = 4 << 30
    """How much all results may take; of more the oldest are dropped before their time."""
    request_seconds: float = 7 * _DAY
    """How long it is known that there was the request."""
    record_seconds: float = 400 * _DAY
    """How far back the audit log and the usage go: a year, and the month to compare with it. They
    are asked for by days and hours.
    """
    records: int = 500_000
    """So many entries of each are kept, whatever their age: some 100 MB. A server that makes more
    in a year is one under test.
    """
    silence_seconds: float = 600.0
    """How long a session goes on without a heartbeat or a request of its client."""


def at_most(most: int, count: int, *location: str | int) -> None:
    """Raises `Refused`, of the field at `location`, for a count above `most`."""
    if count > most:
        raise malformed(*location, message=f"is {count}, and at most {most} here")
