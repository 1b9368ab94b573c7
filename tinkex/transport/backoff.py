"""Decides whether and when a request is retried. Plain functions of values: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from attrs import define

from tinkex.config import RetrySettings
from tinkex.dialects.resend import status_meaning
from tinkex.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    NotATinkerServerError,
    TinkexError,
)
from tinkex.events import Owner

# seconds; a longer Retry-After is ignored (openapi/tinker.yaml, TooManyRequests)
_MAX_RETRY_AFTER = 60.0
_JITTER = 0.25
_LARGE_BODY = 128 * 1024  # bytes; a 429 to a larger body means a longer pause

_PROXY_ATTEMPTS = 3  # attempts of a request that a proxy refuses with a bare 400
_FIRST_CONTACT_ATTEMPTS = 3  # attempts to reach a server that may not be there
_BILLING_PAUSE = 5.0  # seconds

_REFUSED_UNREAD = frozenset({402, 425, 429})
# statuses that proxies make up, 408 among them
_MADE_UP = frozenset(status for status in range(400, 500) if status_meaning(status) == "unknown")
# 501 means that the server will never have the call
_RETRYABLE = (_REFUSED_UNREAD | _MADE_UP | {409, *range(500, 600)}) - {501}

FailureKind = Literal["failure", "rate_limit", "billing", "proxy"]
"""The reason for a retry: a failed exchange, a rate limit, missing credit, or a proxy's refusal."""


def delay(attempt: int, settings: RetrySettings, hint: float | None, chance: float) -> float:
    """Returns the seconds to wait after a failed attempt.

    Args:
        attempt: the number of the attempt, from 1.
        hint: the server's own wish, which is followed.
        chance: a random number in [0, 1), which shortens the pause by up to a quarter.
    """
    if hint is not None:
        return hint
    longest = min(settings.base_delay * 2.0 ** (attempt - 1), settings.max_delay)
    return longest * (1 - _JITTER * chance)


def rate_limit_pause(streak: int, body_size: int, hint: float | None, chance: float) -> float:
    """Returns the seconds without requests after the `streak`-th 429 in a row.

    It is the server's wish, else 1 s (5 s for large bodies), doubled by each further 429.
    """
    if hint is not None:
        return hint
    first = 5.0 if body_size > _LARGE_BODY else 1.0
    return min(first * 2.0 ** (streak - 1), _MAX_RETRY_AFTER) * (1 - _JITTER * chance)


def may_repeat(
    status_code: int, message: str, headers: Mapping[str, str], *, repeatable: bool
) -> bool:
    """Returns whether an error status allows another attempt of the same request.

    A request that is not `repeatable`, because the server might apply it twice, is only repeated
    after a status that means that the server has not read it. A 409 for a name that exists is
    final, though some servers use a status that asks for another attempt.
    """
    if not repeatable:
        return status_code in _REFUSED_UNREAD
    wish = headers.get("x-should-retry")
    if wish in ("true", "false"):
        return wish == "true"
    return status_code in _RETRYABLE and not (status_code == 409 and "already exists" in message)


def failure_kind_of(error: BaseException, *, repeatable: bool) -> FailureKind | None:
    """Returns why a request may be retried; None if another attempt cannot help."""
    if isinstance(error, APIConnectionError):
        return "failure" if error.retryable and (repeatable or not error.sent) else None
    # as good as no answer
    if isinstance(error, (APIResponseValidationError, NotATinkerServerError)):
        return "failure" if repeatable else None
    if not isinstance(error, APIStatusError):
        return None
    if error.status_code == 400 and not error.body and repeatable:
        return "proxy"
    if not may_repeat(error.status_code, error.message, error.headers, repeatable=repeatable):
        return None
    return _BY_STATUS.get(error.status_code, "failure")


_BY_STATUS: Mapping[int, FailureKind] = {402: "billing", 429: "rate_limit"}


@define
class RetryBudget:
    """The attempts and the time that one request has left, for failures of one kind in a row."""

    settings: RetrySettings
    repeatable: bool = True
    max_attempts: int | None = None
    """The most attempts for failures of any kind; by default the settings' for each kind."""
    first_contact: bool = False
    """Whether the server has never answered: a wrong URL should show after a second or two, not
    after all attempts.
    """
    failure_kind: FailureKind | None = None
    """The kind of the last failure."""
    attempts: int = 0
    """The number of failures of that kind in a row."""
    since: float = 0.0
    """The time at which the first of them was sent."""

    def allows_retry(self, error: BaseException, sent_at: float, now: float) -> bool:
        """Records a failure, and returns whether another attempt is allowed."""
        failure_kind = failure_kind_of(error, repeatable=self.repeatable)
        if failure_kind != self.failure_kind:
            self.failure_kind, self.attempts, self.since = failure_kind, 0, sent_at
        self.attempts += 1
        if failure_kind is None or self.attempts >= (self.max_attempts or self.attempts + 1):
            return False
        if (
            self.first_contact
            and _leads_nowhere(error)
            and self.attempts >= _FIRST_CONTACT_ATTEMPTS
        ):
            return False
        attempts, seconds = self._limits(failure_kind)
        return (attempts is None or self.attempts < attempts) and now - self.since < seconds

    @property
    def pause_owner(self) -> Owner:
        """The owner of the pause before the next attempt."""
        return "queue" if self.failure_kind in ("rate_limit", "billing") else "network"

    def reset(self) -> None:
        """Forgets all failures, after an answer."""
        self.failure_kind = None

    def pause(self, error: TinkexError, chance: float) -> float:
        """Returns the seconds until the next attempt."""
        hint = retry_hint(error.headers) if isinstance(error, APIStatusError) else None
        if self.failure_kind == "billing":
            return hint or _BILLING_PAUSE
        if self.failure_kind == "rate_limit":
            return rate_limit_pause(self.attempts, 0, hint, chance)
        return delay(self.attempts, self.settings, hint, chance)

    def _limits(self, failure_kind: FailureKind) -> tuple[int | None, float]:
        """Returns the most attempts and the most seconds for failures of a kind."""
        match failure_kind:
            case "billing":
                return None, self.settings.max_billing_pause
            case "rate_limit":
                return None, self.settings.max_rate_limited
            case "proxy":
                return min(_PROXY_ATTEMPTS, self.settings.max_attempts), self.settings.max_seconds
            case "failure":
                return self.settings.max_attempts, self.settings.max_seconds


def _leads_nowhere(error: BaseException) -> bool:
    return isinstance(error, NotATinkerServerError) or (
        isinstance(error, APIConnectionError) and error.failure_point == "connecting"
    )


def retry_hint(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Returns the seconds that the server asks to wait; None if it gives no usable value.

    It reads `retry-after-ms`, else `Retry-After` in seconds or as a date.
    """
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
