"""`RecoveryPolicy`: when a run is saved, and from which errors it recovers. Plain values: no I/O
here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from attrs.validators import optional

from tinkex.errors import (
    APIConnectionError,
    APIResponseValidationError,
    ClientPoisonedError,
    ConfigError,
    GoneError,
    InternalServerError,
    NotATinkerServerError,
    NotFoundError,
    RequestFailedError,
    RequestSkippedError,
    ResultLostError,
    ServerStateLostError,
    StepOutcomeUnknown,
    TinkexError,
)
from tinkex.errors.hints import hinted

_LOST = (
    StepOutcomeUnknown,
    ResultLostError,
    ServerStateLostError,
    APIConnectionError,
    InternalServerError,
    GoneError,
)
_OF_A_MODEL = frozenset(
    {
        *(
            "forward",
            "forward_backward",
            "optim_step",
            "save_weights",
            "save_weights_for_sampler",
            "save_weights_external",
        ),
        *("get_info", "unload_model", "create_sampling_session", "sample"),
    }
)
"""Operations of a model, or of a sampler of it, that were possible before: a 404 to one means that
the server has forgotten it.
"""


def is_recoverable(error: BaseException | None) -> bool:
    """Whether going back to the last saved state helps: the server, or the way to it, lost the
    model, a step, or its result.

    What the user got wrong is not, nor a wait that took too long. What was not sent because of an
    earlier error is as that error.
    """
    if isinstance(error, (ClientPoisonedError, RequestSkippedError)):
        return is_recoverable(error.__cause__)
    if isinstance(error, (NotFoundError, APIResponseValidationError, NotATinkerServerError)):
        return error.operation in _OF_A_MODEL
    return isinstance(error, _LOST) or (
        isinstance(error, RequestFailedError) and error.category == "server"
    )


def _at_least_1(policy: object, attribute: Any, value: int) -> None:
    if value < 1:
        raise ConfigError(
            f"{type(policy).__name__}.{attribute.name} must be 1 or more, not {value!r}"
        )


def _positive(policy: object, attribute: Any, value: float) -> None:
    if not value > 0:
        raise ConfigError(
            f"{type(policy).__name__}.{attribute.name} must be more than 0, not {value!r}"
        )


@hinted
@frozen(kw_only=True)
class RecoveryPolicy:
    """When a run is saved, what it recovers from, and when it gives up.

    Example:
        >>> RecoveryPolicy(save_every_steps=20, keep=3).save_due(steps=20, seconds=1.0)
        True

    Raises:
        ConfigError: a value is not allowed, or the run would never be saved.
    """

    save_every_steps: int | None = field(default=None, validator=optional(_at_least_1))
    save_every_minutes: float | None = field(default=10.0, validator=optional(_positive))
    """Whichever of the two is due first; None: not by this."""
    keep: int = field(default=2, validator=_at_least_1)
    """So many of its newest checkpoints are kept; older ones are deleted where the server can."""
    reload_on: Callable[[TinkexError], bool] = is_recoverable
    """Which errors to recover from; others pass through."""
    give_up_after: int = field(default=5, validator=_at_least_1)
    """So many recoveries with no checkpoint between them that was new."""
    wait_minutes: float = field(default=10.0, validator=_positive)
    """How long one recovery may wait for a server that does not answer."""

    def __attrs_post_init__(self) -> None:
        if self.save_every_steps is None and self.save_every_minutes is None:
            raise ConfigError(
                "RecoveryPolicy needs save_every_steps or save_every_minutes, or there is nothing "
                "to go back to"
            )

    def save_due(self, steps: int, seconds: float) -> bool:
        """Whether to save, so many steps and seconds after the last time."""
        by_steps = self.save_every_steps is not None and steps >= self.save_every_steps
        by_time = self.save_every_minutes is not None and seconds >= 60 * self.save_every_minutes
        return steps > 0 and (by_steps or by_time)
