"""Limits of the connections to a server, and of what comes over them."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import optional

from tinkex.config.validators import not_negative, positive
from tinkex.errors.hints import hinted


@hinted
@frozen(kw_only=True)
class HttpLimits:
    """How many connections a client opens, how long an idle one is kept, and how large an answer
    may be.
    """

    max_connections: int | None = field(default=None, validator=optional(positive))
    """None: as many as there are requests under way."""
    keepalive: float = field(default=4.0, validator=not_negative)
    """Seconds. Below the 5 after which common servers close an idle connection: a request sent on
    one that is just being closed dies unanswered, and for a training step that would mean an
    unknown outcome.
    """
    max_download_seconds: float = field(default=86_400.0, validator=positive)
    """Seconds that a file of a checkpoint may take in all, over all tries; then `WaitTimeoutError`.
    """
    max_download_bytes: int = field(default=256 << 30, validator=positive)
    """Bytes of one file of a checkpoint."""
    max_answer_bytes: int = field(default=512 << 20, validator=positive)
    """Bytes of one answer, before and after it is expanded; then `AnswerTooLargeError`. It counts
    for results; what else is asked for is bounded by 64 MiB, or by this where it is lower.
    Checkpoints are downloads, and not bounded by it.
    """
