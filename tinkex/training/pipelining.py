"""`PipelineCheck`: detects training loops that await each call before they make the next one.

Plain values: no clock here.
"""

from __future__ import annotations

from attrs import define

_STEPS = 4  # unpipelined steps in a row before the warning: the first ones are often special
_MIN_IDLE_SHARE = 0.05  # share of a step's time in which the server had nothing to do


@define
class PipelineCheck:
    """A detector that follows a model's training requests, and warns once.

    A step is pipelined if its `optim_step` is submitted while its `forward_backward` is still under
    way.
    """

    _under_way: int = 0
    _gradients_ended_at: float | None = None
    """The time at which the last forward_backward ended, if nothing was submitted since."""
    _last_step_at: float | None = None
    _steps: int = 0
    """The number of unpipelined steps in a row."""
    _idle: float = 0.0
    _spent: float = 0.0
    _has_warned: bool = False

    def submitted(self, operation: str, at: float) -> str | None:
        """Notes that a request was submitted at this time, in seconds; returns the warning for the
        user, once, or None.
        """
        message = self._step(at) if operation == "optim_step" and not self._has_warned else None
        self._under_way += 1
        self._gradients_ended_at = None
        return message

    def finished(self, operation: str, at: float) -> None:
        """Notes that the result or the error of a request arrived at this time."""
        self._under_way -= 1
        if operation == "forward_backward" and not self._under_way:
            self._gradients_ended_at = at

    def _step(self, at: float) -> str | None:
        last, self._last_step_at = self._last_step_at, at
        if self._gradients_ended_at is None:
            self._steps, self._idle, self._spent = 0, 0.0, 0.0
            return None
        if last is None:
            return None
        self._steps += 1
        self._idle += at - self._gradients_ended_at
        self._spent += at - last
        if self._steps < _STEPS or self._idle < _MIN_IDLE_SHARE * self._spent:
            return None
        self._has_warned = True
        return (
            f"the last {self._steps} steps were not pipelined: optim_step was called after "
            "forward_backward had been awaited, so the server was idle for "
            f"{self._idle / self._steps:.2f} s of the {self._spent / self._steps:.2f} s of a step. "
            "Use train_step, which submits both, or call optim_step before awaiting "
            "forward_backward."
        )
