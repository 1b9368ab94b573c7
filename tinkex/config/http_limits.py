"""`HttpLimits`: limits on connections, answers and downloads."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import optional

from tinkex.errors.hints import hinted
from tinkex.errors.validators import not_negative, positive


@hinted
@frozen(kw_only=True)
class HttpLimits:
    """Limits on the connections that a client opens, and on the size of answers and downloads.

    Example:
        limits = HttpLimits(max_connections=32, max_answer_bytes=64 << 20)
        config = Config(http_limits=limits)
        service = ServiceClient(config=config)
    """

    max_connections: int | None = field(default=None, validator=optional(positive))
    """The highest number of open connections; None for no limit."""
    keepalive: float = field(default=4.0, validator=not_negative)
    """Seconds for which an idle connection is kept.

    Common servers close an idle connection after 5 seconds. The default is lower, because a request
    on a connection that the server is just closing gets no answer, and a training step without an
    answer has an unknown outcome.
    """
    max_download_seconds: float = field(default=86_400.0, validator=positive)
    """Seconds that the download of one checkpoint file may take, all attempts together.

    A longer download raises `WaitTimeoutError`.
    """
    max_download_bytes: int = field(default=256 << 30, validator=positive)
    """The largest size of one checkpoint file, in bytes."""
    max_answer_bytes: int = field(default=512 << 20, validator=positive)
    """The largest size of one answer in bytes, before and after decompression.

    A larger answer raises `AnswerTooLargeError`. The limit applies to results. Other answers are
    limited to 64 MiB, or to this if it is lower. Checkpoint downloads have limits of their own.
    """
