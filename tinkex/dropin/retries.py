"""`RetryConfig` and its neighbours, by their names in the official SDK."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from tinkex.errors import APIConnectionError

_RETRIED = frozenset({408, 409, 429})


class RetryableException(Exception):
    """An error that `RetryConfig.retryable_exceptions` lists. Tinkex never raises it."""


@dataclass
class RetryConfig:
    """Settings of the retries of a sampling client, which converts them to
    `tinkex.RetrySettings`.

    `max_connections` and `retryable_exceptions` have no effect: the number of connections follows
    the server's limits, and each error of tinkex says itself whether a retry helps.
    """

    max_connections: int | None = 1000
    progress_timeout: float = 7200.0
    """Seconds that a sample may take, including all retries, unless `enable_stuck_detection` is
    False.
    """
    retry_delay_base: float = 0.5
    retry_delay_max: float = 10.0
    jitter_factor: float = 0.25
    enable_retry_logic: bool = True
    enable_stuck_detection: bool = True
    retryable_exceptions: tuple[type[Exception], ...] = (
        TimeoutError,
        APIConnectionError,
        httpx.TimeoutException,
        RetryableException,
    )


def is_retryable_status_code(status_code: int) -> bool:
    """Returns whether a request that was answered with this status is sent again."""
    return status_code in _RETRIED or 500 <= status_code < 600
