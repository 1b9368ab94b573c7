"""How long is waited, and how often something is tried."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from tinkex.config.validators import not_negative, positive
from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted


@hinted
@frozen(kw_only=True)
class RetrySettings:
    """How often, and for how long in all, a failed HTTP call is tried again.

    The delay before try n + 1 is `min(base_delay * 2**(n - 1), max_delay)`, less a random part of
    up to a quarter; a `Retry-After` of the server goes before it.
    """

    max_attempts: int = field(default=10, validator=positive)
    max_seconds: float = field(default=300.0, validator=positive)
    base_delay: float = field(default=0.5, validator=not_negative)
    """Seconds."""
    max_delay: float = field(default=10.0, validator=not_negative)
    """Seconds."""
    max_rate_limited: float = field(default=3600.0, validator=positive)
    """Seconds for which a request that is refused as one too many (429) is sent again; such tries
    do not count in `max_attempts`.
    """
    max_billing_pause: float = field(default=3600.0, validator=positive)
    """Seconds for which a request that cannot be paid (402) is sent again, every 5 s."""
    max_wait: float = field(default=7200.0, validator=positive)
    """Seconds that a call may last in all, over all tries and pauses; then `WaitTimeoutError`."""


def as_retry_settings(given: object) -> RetrySettings | None:
    """Returns the settings for one client's calls; the official SDK's `RetryConfig` is taken, too.

    Raises:
        InvalidInputError: it is neither.
    """
    if given is None or isinstance(given, RetrySettings):
        return given
    config: Any = given
    if not all(hasattr(config, name) for name in _OF_A_RETRY_CONFIG):
        raise InvalidInputError(
            f"retry_config must be a RetrySettings, found {type(given).__name__}"
        )
    return RetrySettings(
        max_attempts=RetrySettings().max_attempts if config.enable_retry_logic else 1,
        base_delay=config.retry_delay_base,
        max_delay=config.retry_delay_max,
        max_wait=config.progress_timeout,
    )


_OF_A_RETRY_CONFIG = (
    "progress_timeout",
    "retry_delay_base",
    "retry_delay_max",
    "enable_retry_logic",
)


@hinted
@frozen(kw_only=True)
class PollSettings:
    """How a result is waited for. Polling is not retrying: a poll that fails is tried again by
    `RetrySettings`.
    """

    min_interval: float = field(default=0.05, validator=not_negative)
    """Seconds between polls that the server answered at once with "not yet"; grows to
    `max_interval`.
    """
    max_interval: float = field(default=2.0, validator=not_negative)
    """Seconds."""
    request_timeout: float = field(default=45.0, validator=positive)
    """Seconds that one long poll may take, more where the server is known to hold it longer; one
    that takes longer counts as "not yet".
    """
    max_wait: float = field(default=7200.0, validator=positive)
    """Seconds in all that a result is waited for, or the turn to be sent behind earlier calls; then
    `WaitTimeoutError`.
    """
