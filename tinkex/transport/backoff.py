"""When to try again, and after how long. Plain functions of values: no clock, no I/O."""

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

# seconds; a longer wish of the server is not believed (openapi/tinker.yaml, TooManyRequests)
_MAX_RETRY_AFTER = 60.0
_JITTER = 0.25
_LARGE_BODY = 128 * 1024  # bytes; from here on a 429 means a longer pause

_PROXY_TRIES = 3  # of a request that a proxy refuses by a bare 400
_FIRST_CONTACT_TRIES = 3  # where nothing can be reached, or something that is no Tinker server
_BILLING_PAUSE = 5.0  # seconds

_REFUSED_UNREAD = frozenset({402, 425, 429})
# by proxies, 408 among them
_MADE_UP = frozenset(status for status in range(400, 500) if status_meaning(status) == "unknown")
# which says that there is no such call, ever
_RETRYABLE = (_REFUSED_UNREAD | _MADE_UP | {409, *range(500, 600)}) - {501}

FailureKind = Literal["failure", "rate_limit", "billing", "proxy"]
"""Why a request is to be sent again: it failed, was refused as one too many, or cannot be paid, or
something on the way refused it.
"""


def delay(attempt: int, settings: RetrySettings, hint: float | None, chance: float) -> float:
    """Seconds to wait after failed try number `attempt` (from 1); `chance` in [0, 1) shortens it by
    up to a quarter.
    """
    if hint is not None:
        return hint
    longest = min(settings.base_delay * 2.0 ** (attempt - 1), settings.max_delay)
    return longest * (1 - _JITTER * chance)


def rate_limit_pause(streak: int, body_size: int, hint: float | None, chance: float) -> float:
    """Seconds without sending after the `streak`-th 429 in a row: the server's wish, else 1 s (5 s
    for large bodies), doubling.
    """
    if hint is not None:
        return hint
    first = 5.0 if body_size > _LARGE_BODY else 1.0
    return min(first * 2.0 ** (streak - 1), _MAX_RETRY_AFTER) * (1 - _JITTER * chance)


def may_repeat(
    status_code: int, message: str, headers: Mapping[str, str], *, repeatable: bool
) -> bool:
    """Whether an error status allows another try of the same request.

    A request that is not `repeatable`, because the server might apply it twice, is only tried again
    when the refusal came before the server took it on. A name that is in use stays in use, though
    some servers say so with a status that asks for another try.
    """
    if not repeatable:
        return status_code in _REFUSED_UNREAD
    wish = headers.get("x-should-retry")
    if wish in ("true", "false"):
        return wish == "true"
    return status_code in _RETRYABLE and not (status_code == 409 and "already exists" in message)


def failure_kind_of(error: BaseException, *, repeatable: bool) -> FailureKind | None:
    """What keeps a request from being answered for now; None where it is for good."""
    if isinstance(error, APIConnectionError):
        return "failure" if error.retryable and (repeatable or not error.sent) else None
    # no answer, as good as
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
    """What is left of the tries of one request, over failures of one kind in a row."""

    settings: RetrySettings
    repeatable: bool = True
    max_attempts: int | None = None
    """At most so many tries, whatever the kind; by default as the settings say for it."""
    first_contact: bool = False
    """Whether nobody knows yet that there is a server: a wrong URL should show in a second or two,
    not when all tries are used up.
    """
    failure_kind: FailureKind | None = None
    """The kind of the last failure."""
    attempts: int = 0
    """Failures of that kind in a row."""
    since: float = 0.0
    """When the first of them was sent."""

    def allows_retry(self, error: BaseException, sent_at: float, now: float) -> bool:
        """Records a failure; whether there is to be another try."""
        failure_kind = failure_kind_of(error, repeatable=self.repeatable)
        if failure_kind != self.failure_kind:
            self.failure_kind, self.attempts, self.since = failure_kind, 0, sent_at
        self.attempts += 1
        if failure_kind is None or self.attempts >= (self.max_attempts or self.attempts + 1):
            return False
        if self.first_contact and _leads_nowhere(error) and self.attempts >= _FIRST_CONTACT_TRIES:
            return False
        tries, seconds = self._limits(failure_kind)
        return (tries is None or self.attempts < tries) and now - self.since < seconds

    @property
    def pause_owner(self) -> Owner:
        """Whose the pause is that follows."""
        return "queue" if self.failure_kind in ("rate_limit", "billing") else "network"

    def reset(self) -> None:
        """The request was answered."""
        self.failure_kind = None

    def pause(self, error: TinkexError, chance: float) -> float:
        """Seconds until the next try."""
        hint = retry_hint(error.headers) if isinstance(error, APIStatusError) else None
        if self.failure_kind == "billing":
            return hint or _BILLING_PAUSE
        if self.failure_kind == "rate_limit":
            return rate_limit_pause(self.attempts, 0, hint, chance)
        return delay(self.attempts, self.settings, hint, chance)

    def _limits(self, failure_kind: FailureKind) -> tuple[int | None, float]:
        """Tries and seconds."""
        match failure_kind:
            case "billing":
                return None, self.settings.max_billing_pause
            case "rate_limit":
                return None, self.settings.max_rate_limited
            case "proxy":
                return min(_PROXY_TRIES, self.settings.max_attempts), self.settings.max_seconds
            case "failure":
                return self.settings.max_attempts, self.settings.max_seconds


def _leads_nowhere(error: BaseException) -> bool:
    return isinstance(error, NotATinkerServerError) or (
        isinstance(error, APIConnectionError) and error.failure_point == "connecting"
    )


def retry_hint(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else `Retry-After` in seconds or as a
    date; None when unusable.
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
