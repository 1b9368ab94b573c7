"""`RetrySettings` and `PollSettings`: retries of HTTP calls, and polling for results."""

from __future__ import annotations

import math
import sys
from typing import Any

from attrs import field, frozen

from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.errors.validators import not_negative, positive


@hinted
@frozen(kw_only=True)
class RetrySettings:
    """Limits on the number, delay and total duration of retries of a failed HTTP call.

    The delay after attempt n is `min(base_delay * 2**(n - 1), max_delay)`, less a random share of
    up to a quarter. A `Retry-After` header of the server takes precedence over it.

    Example:
        patient = RetrySettings(max_attempts=30, max_seconds=1800.0)
        service = ServiceClient(config=Config(retry=patient))
        once = RetrySettings(max_attempts=1)
        sampler = service.create_sampling_client(model_path=sampler_path, retry_config=once)
    """

    max_attempts: int = field(default=10, validator=positive)
    """The highest number of attempts, including the first."""
    max_seconds: float = field(default=300.0, validator=positive)
    """Seconds for which a failed call is retried."""
    base_delay: float = field(default=0.5, validator=not_negative)
    """The delay after the first attempt, in seconds."""
    max_delay: float = field(default=10.0, validator=not_negative)
    """The longest delay, in seconds."""
    max_rate_limited: float = field(default=3600.0, validator=positive)
    """Seconds for which a rate-limited request (429) is retried.

    These attempts do not count towards `max_attempts`.
    """
    max_billing_pause: float = field(default=3600.0, validator=positive)
    """Seconds for which a request that the account cannot pay (402) is retried, every 5 seconds."""
    max_wait: float = field(default=7200.0, validator=positive)
    """Seconds that a call may last, including all attempts and delays.

    A longer call raises `WaitTimeoutError`.
    """


def as_retry_settings(given: object) -> RetrySettings | None:
    """Returns `RetrySettings` as they are, and converts a `RetryConfig` of the official SDK.

    A `RetryConfig` limits the time for which a sample is retried, and not the number of attempts.

    Raises:
        InvalidInputError: the argument is neither.
    """
    if given is None or isinstance(given, RetrySettings):
        return given
    config: Any = given
    if not all(hasattr(config, name) for name in _OF_A_RETRY_CONFIG):
        raise InvalidInputError(
            f"retry_config must be a RetrySettings, found {type(given).__name__}"
        )
    bounded = getattr(config, "enable_stuck_detection", True)
    seconds = config.progress_timeout if bounded else math.inf
    return RetrySettings(
        max_attempts=sys.maxsize if config.enable_retry_logic else 1,
        max_seconds=seconds,
        base_delay=config.retry_delay_base,
        max_delay=config.retry_delay_max,
        max_wait=seconds,
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
    """Intervals and limits of polling for a result.

    Polling is independent of retries: `RetrySettings` applies to a poll that fails.

    Example:
        poll = PollSettings(max_wait=24 * 3600.0)  # seconds
        config = Config(poll=poll)
        service = ServiceClient(config=config)
    """

    min_interval: float = field(default=0.05, validator=not_negative)
    """Seconds before the next poll if the server answers at once that the result is not ready.

    The interval grows with each poll, up to `max_interval`.
    """
    max_interval: float = field(default=2.0, validator=not_negative)
    """The longest interval between polls, in seconds."""
    request_timeout: float = field(default=45.0, validator=positive)
    """Seconds that one long poll may take; more if the server is known to hold a poll longer.

    A poll that takes longer counts as one without a result.
    """
    max_wait: float = field(default=7200.0, validator=positive)
    """Seconds that a call waits for its result, or behind earlier calls before it is sent.

    A longer wait raises `WaitTimeoutError`.
    """
