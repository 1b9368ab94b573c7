"""`Limits`: how much a server accepts, and how long it keeps what nobody asks for."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from attrs import frozen

from tinkex_server.errors import malformed

_DAY = 24 * 3600.0


@frozen(kw_only=True)
class Limits:
    """The bounds of one server. A request beyond one is refused, and the answer names the bound."""

    body_bytes: int = 64 << 20
    """The bytes of a request's body, both as it is sent and decompressed."""
    upload_bytes: int = 4 << 30
    """The bytes of one file of an adapter that is uploaded."""
    datums: int = 8192
    """The number of datums in one batch."""
    tokens: int = 1 << 22
    """The number of tokens in one batch or one prompt."""
    rank: int = 256
    """The rank of a LoRA adapter."""
    models: int = 256
    """The number of models in memory at once, in training."""
    samplers: int = 64
    """The number of weights that are kept in memory for sampling. Beyond it the least recently used
    ones are dropped, and loaded again when they are sampled.
    """
    num_samples: int = 1024
    """The number of samples of one prompt."""
    top_tokens: int = 1024
    """The number of alternative tokens that are reported for one position."""
    top_tokens_per_result: int = 1 << 22
    """The number of alternative tokens in the result of one request. Its old name is `told`."""
    pending: int = 10_000
    """The number of requests that are accepted and not done. Beyond it requests are answered 429.
    """

    result_seconds: float = _DAY
    """The seconds for which the result of a request is kept after the request is done. Later it is
    answered 410.
    """
    result_bytes: int = 4 << 30
    """The bytes of all results together. Beyond it the oldest are dropped before their time."""
    request_seconds: float = 7 * _DAY
    """The seconds for which the server knows that it was sent a request."""
    record_seconds: float = 400 * _DAY
    """The seconds for which records of the audit log, of the usage and of training steps are kept.
    The default is a year, and the month to compare with it.
    """
    records: int = 500_000
    """The number of records that are kept in the audit log, in the usage records, and of training
    steps, whatever their age: about 100 MB each. Few servers make more in a year.
    """
    silence_seconds: float = 600.0
    """The seconds for which a session stays open without a heartbeat or a request of its client."""

    if not TYPE_CHECKING:  # type checkers and IDEs see the constructor of attrs, without `told`

        def __init__(self, **limits: float) -> None:
            if "told" in limits:
                _warn_of_told()
                limits["top_tokens_per_result"] = limits.pop("told")
            self.__attrs_init__(**limits)

        @property
        def told(self) -> int:
            """The old name of `top_tokens_per_result`."""
            _warn_of_told()
            return self.top_tokens_per_result


def _warn_of_told() -> None:
    warnings.warn(
        "Limits.told is now top_tokens_per_result; the next release removes the old name",
        DeprecationWarning,
        stacklevel=3,
    )


def check_at_most(most: int, count: int, *location: str | int) -> None:
    """Raises `Refused`, naming the field at `location`, if `count` is above `most`."""
    if count > most:
        raise malformed(*location, message=f"is {count}, and at most {most} here")
