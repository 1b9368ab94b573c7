"""`PipelineCheck`: sees when steps are not pipelined, each call awaited before the next one is
submitted. Plain values: no clock here.
"""

from __future__ import annotations

from attrs import define

_STEPS = 4  # in a row, before anything is said: the first ones of a run are often special
_WORTH_SAYING = 0.05  # of the time of a step that the server had nothing to do


@define
class PipelineCheck:
    """Fed with a model's training requests as they come and end, in the order of the calls; speaks
    up once.

    A step is pipelined when its `optim_step` is submitted while its `forward_backward` is still
    under way.
    """

    _under_way: int = 0
    _gradients_ended_at: float | None = None
    """When the last forward_backward ended, if nothing was submitted since."""
    _last_step_at: float | None = None
    _steps: int = 0
    """In a row that were not pipelined."""
    _idle: float = 0.0
    _spent: float = 0.0
    _said: bool = False

    def submitted(self, operation: str, at: float) -> str | None:
        """A request was submitted at this time, in seconds; what to tell the user, once, or
        None.
        """
        message = self._step(at) if operation == "optim_step" and not self._said else None
        self._under_way += 1
        self._gradients_ended_at = None
        return message

    def finished(self, operation: str, at: float) -> None:
        """The result of a request came, or its error."""
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
        if self._steps < _STEPS or self._idle < _WORTH_SAYING * self._spent:
            return None
        self._said = True
        return (
            f"the last {self._steps} steps were not pipelined: optim_step was called when "
            "forward_backward had been awaited, and the "
            f"server had nothing to do for {self._idle / self._steps:.2f} s of "
            f"{self._spent / self._steps:.2f} s a step. "
            "Use train_step, which submits both, or call optim_step before awaiting "
            "forward_backward."
        )
