"""When to try again, and after how long. Plain functions of values: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tinkex.config import RetrySettings

_MAX_RETRY_AFTER = 60.0  # seconds; a longer wish of the server is not believed (openapi/tinker.yaml, TooManyRequests)
_JITTER = 0.25
_LARGE_BODY = 128 * 1024  # bytes; from here on a 429 means a longer pause

_RETRYABLE = frozenset({408, 409, 429, *range(500, 600)})
_REFUSED_UNREAD = frozenset({425, 429})


def delay(attempt: int, settings: RetrySettings, hint: float | None, chance: float) -> float:
    """Seconds to wait after failed try number `attempt` (from 1); `chance` in [0, 1) shortens it by up to a quarter."""
    if hint is not None:
        return hint
    longest = min(settings.base_delay * 2.0 ** (attempt - 1), settings.max_delay)
    return longest * (1 - _JITTER * chance)


def rate_limit_pause(streak: int, body_size: int, hint: float | None, chance: float) -> float:
    """Seconds without sending after the `streak`-th 429 in a row: the server's wish, else 1 s (5 s for large bodies), doubling."""
    if hint is not None:
        return hint
    first = 5.0 if body_size > _LARGE_BODY else 1.0
    return min(first * 2.0 ** (streak - 1), _MAX_RETRY_AFTER) * (1 - _JITTER * chance)


def may_repeat(status_code: int, message: str, headers: Mapping[str, str], *, repeatable: bool) -> bool:
    """Whether an error status allows another try of the same request.

    A request that is not `repeatable`, because the server might apply it twice, is only tried again when the refusal came
    before the server took it on. A name that is in use stays in use, though some servers say so with a status that asks for another try.
    """
    if not repeatable:
        return status_code in _REFUSED_UNREAD
    wish = headers.get("x-should-retry")
    if wish in ("true", "false"):
        return wish == "true"
    return status_code in _RETRYABLE and not (status_code == 409 and "already exists" in message)


def retry_hint(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else `Retry-After` in seconds or as a date; None when unusable."""
    seconds = _number(headers.get("retry-after-ms"), scale=0.001)
    if seconds is None:
        seconds = _number(headers.get("retry-after"))
    if seconds is None:
        seconds = _until(headers.get("retry-after"), now or datetime.now(UTC))
    return seconds if seconds is not None and 0 < seconds <= _MAX_RETRY_AFTER else None


def _number(text: str | None, scale: float = 1.0) -> float | None:
    try:
        return float(text) * scale if text else None
    except ValueError:
        return None


def _until(date: str | None, now: datetime) -> float | None:
    try:
        return (parsedate_to_datetime(date) - now).total_seconds() if date else None
    except (ValueError, TypeError):
        return None
