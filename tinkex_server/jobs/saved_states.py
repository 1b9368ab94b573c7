"""Decides which saved state a model is restored from after its engine has died, and which steps are
lost then. Plain values: no clock, no lock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from tinkex_server.checkpoint_path import CheckpointPath


@frozen
class SavedState:
    """A training state that a model was saved to or loaded from."""

    path: CheckpointPath
    saved_at: float
    """The time of the save, which tells the state from a later one under the same path."""
    optimizer: bool
    """Whether a restore includes the optimizer's state."""
    seq_id: int | None = None
    """The seq_id of the request that saved or loaded the state, if it had one."""


@frozen
class RecoveryPlan:
    """A decision on one model of an engine that died: it is restored from `state`, created anew
    (`state` is None), or given up.
    """

    message: str
    """A text for clients: what happens to the model, and what they should do."""
    survives: bool = True
    state: SavedState | None = None
    steps_lost: bool = False


@define(eq=False)
class LostSteps:
    """A record of one engine exit for one model: requests failed, or steps were lost.

    A client that does not wait for results has sent more requests by then, all based on the lost
    steps. None of them may run on the restored weights, so each request that was sent before its
    client could know of the exit fails as well. A client can know once the server has answered one
    of its polls with such a failure. A request whose first byte arrives after that answer is taken
    to be meant for the restored weights; one that crosses the answer on its way cannot be told
    apart, and runs.
    """

    number: int
    """A number that counts the engine exits of this server, from 1."""
    message: str
    told_at: float | None = None
    """The time at which a client was first told, on the clock that measures arrivals."""

    def note_told(self, now: float) -> None:
        if self.told_at is None:
            self.told_at = now

    def was_unknown(self, arrived_at: float) -> bool:
        """Returns whether the sender of a request that arrived then could not know of the exit."""
        return self.told_at is None or arrived_at <= self.told_at


@define
class SavedStates:
    """The saved states of one model in memory."""

    states: list[SavedState] = field(factory=list[SavedState])
    """The states, one for each path, newest last."""
    trained_since: bool = False
    """Whether the model was trained since the newest of them, or since it was created."""

    def add(self, state: SavedState) -> None:
        """Notes that the model's weights are now those of this state."""
        self.states = [known for known in self.states if known.path != state.path] + [state]
        self.trained_since = False

    def plan_recovery(
        self, model_id: str, still_exists: Callable[[SavedState], bool], *, engine_restarts: bool
    ) -> RecoveryPlan:
        """Decides what happens to the model now that everything in memory is lost."""
        state = next((state for state in reversed(self.states) if still_exists(state)), None)
        if not engine_restarts:
            newest = f"; its newest saved state is {state.path}" if state else ""
            return RecoveryPlan(f"model {model_id!r} is lost{newest}", survives=False)
        if state is None:
            return self._plan_without_state(model_id)
        if state is self.states[-1] and not self.trained_since:
            message = (
                f"model {model_id!r} is restored as it was, from {state.path}: send the requests "
                "that were under way again"
            )
            return RecoveryPlan(message, state=state)
        saved = f", saved at seq_id {state.seq_id}" if state.seq_id else ""
        message = (
            f"model {model_id!r} is restored from {state.path}{saved}; the steps since then are "
            "lost: continue from that state"
        )
        return RecoveryPlan(message, state=state, steps_lost=True)

    def _plan_without_state(self, model_id: str) -> RecoveryPlan:
        if self.states:
            message = (
                f"model {model_id!r} is lost, because its saved states were deleted: create a new "
                "model"
            )
            return RecoveryPlan(message, survives=False)
        if self.trained_since:
            message = (
                f"model {model_id!r} is lost, because it was never saved: create a new model, and "
                "save it regularly"
            )
            return RecoveryPlan(message, survives=False)
        return RecoveryPlan(
            f"model {model_id!r} is created again, as it was never trained: send the requests that "
            "were under way again"
        )
