"""`RecoveryPolicy`: when a run is saved, and from which errors it recovers.

This module does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

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
from tinkex.errors.validators import at_least_1, positive

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
"""Operations of an existing model or of its sampler: a 404 to one of them means that the server has
lost the model.
"""


def is_recoverable(error: BaseException | None) -> bool:
    """Returns whether a run can recover from an error by going back to its last saved state.

    It can if the server or the network lost the model, a step, or the result of a step. It cannot
    after a wrong argument or a wait that took too long. For a request that was not sent, the
    earlier error that prevented it decides.
    """
    if isinstance(error, (ClientPoisonedError, RequestSkippedError)):
        return is_recoverable(error.__cause__)
    if isinstance(error, (NotFoundError, APIResponseValidationError, NotATinkerServerError)):
        return error.operation in _OF_A_MODEL
    return isinstance(error, _LOST) or (
        isinstance(error, RequestFailedError) and error.category == "server"
    )


@hinted
@frozen(kw_only=True)
class RecoveryPolicy:
    """A policy for a recoverable run: when it saves, when it recovers, and when it gives up.

    Example:
        >>> policy = RecoveryPolicy(save_every_steps=20, keep=3)
        >>> policy.save_due(steps=20, seconds=1.0)
        True

    Raises:
        ConfigError: a value is not allowed, or the run would never be saved.
    """

    save_every_steps: int | None = field(default=None, validator=optional(at_least_1))
    """The number of steps after which the run is saved; None for no limit."""
    save_every_minutes: float | None = field(default=10.0, validator=optional(positive))
    """The minutes after which the run is saved; None for no limit.

    The run is saved as soon as either limit is reached.
    """
    keep: int = field(default=2, validator=at_least_1)
    """The number of newest checkpoints to keep. Older ones are deleted if the server allows it."""
    reload_on: Callable[[TinkexError], bool] = is_recoverable
    """A function that returns whether to recover from an error. Other errors are raised."""
    give_up_after: int = field(default=5, validator=at_least_1)
    """The number of recoveries without a new checkpoint in between after which the run gives up."""
    wait_minutes: float = field(default=10.0, validator=positive)
    """The minutes for which one recovery waits for a server that does not answer."""

    def __attrs_post_init__(self) -> None:
        if self.save_every_steps is None and self.save_every_minutes is None:
            raise ConfigError(
                "RecoveryPolicy needs save_every_steps or save_every_minutes; without either, the "
                "run would never be saved"
            )

    def save_due(self, steps: int, seconds: float) -> bool:
        """Returns whether to save, given the steps and seconds since the last save."""
        by_steps = self.save_every_steps is not None and steps >= self.save_every_steps
        by_time = self.save_every_minutes is not None and seconds >= 60 * self.save_every_minutes
        return steps > 0 and (by_steps or by_time)
