"""What a model can go back to when its engine dies, and what is lost then. Plain values: no clock,
no lock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from tinkex_server.checkpoint_path import CheckpointPath


@frozen
class SavedState:
    """A training state that a model had: one that it saved, or was loaded from, at the request
    `seq_id` (None: it had no number).
    """

    path: CheckpointPath
    saved_at: float  # which tells it from another that was saved in its place
    optimizer: bool
    seq_id: int | None = None


@frozen
class Fate:
    """What becomes of a model: it goes back to `state`, is made anew, or does not survive. `words`
    say so, and what to do.
    """

    words: str
    survives: bool = True
    state: SavedState | None = None
    steps_lost: bool = False


@define(eq=False)
class Loss:
    """That requests of a model failed, or steps of it were lost, when the engine died. `words` say
    so.

    A client that sends ahead has sent more by then, on top of what was lost. None of it may be done
    on the weights that came back, so that whatever comes before the client can know fails as well.
    It can know once the server has answered one of its polls with such a failure; a request that
    comes after that, by its first byte, is taken to be meant for the weights that are there now.
    What crosses that answer on its way cannot be told from it.
    """

    number: int
    """Of the losses of this server, from 1."""
    words: str
    told_at: float | None = None
    """When a client was first told, on the clock that requests come by."""

    def tell(self, now: float) -> None:
        if self.told_at is None:
            self.told_at = now

    def was_unknown(self, came_at: float) -> bool:
        """To the sender of a request that came then."""
        return self.told_at is None or came_at <= self.told_at


@define
class Progress:
    """What one model in memory has been through."""

    states: list[SavedState] = field(factory=list[SavedState])
    """Newest last, one for each path."""
    trained: bool = False
    """Whether it has changed since the newest of them, or since it was made."""

    def reach(self, state: SavedState) -> None:
        """The model is as in this saved state."""
        self.states = [known for known in self.states if known.path != state.path] + [state]
        self.trained = False

    def came_back(self, fate: Fate) -> None:
        """The model is as in its fate's state, or new."""
        if fate.state:
            self.reach(fate.state)

    def fate(
        self, model_id: str, is_there: Callable[[SavedState], bool], *, engine_lives: bool
    ) -> Fate:
        """When all that was in memory is lost. `is_there` says whether a state was not deleted
        since.
        """
        state = next((state for state in reversed(self.states) if is_there(state)), None)
        if not engine_lives:
            newest = f"; its newest saved state is {state.path}" if state else ""
            return Fate(f"model {model_id!r} is gone with it{newest}", survives=False)
        if state is None:
            return self._fate_without_state(model_id)
        if state is self.states[-1] and not self.trained:
            return Fate(
                f"model {model_id!r} comes back as it was, from {state.path}: send again what "
                "was under way",
                state=state,
            )
        number = f", saved at seq_id {state.seq_id}" if state.seq_id else ""
        words = (
            f"model {model_id!r} goes back to {state.path}{number}; the steps since are lost: go "
            "on from there"
        )
        return Fate(words, state=state, steps_lost=True)

    def _fate_without_state(self, model_id: str) -> Fate:
        if self.states:
            return Fate(
                f"model {model_id!r} is lost, as its saved states were deleted: create another",
                survives=False,
            )
        if self.trained:
            words = (
                f"model {model_id!r} is lost, as it was never saved: create another, and save it "
                "now and then"
            )
            return Fate(words, survives=False)
        return Fate(
            f"model {model_id!r} is made anew, as it was never trained: send again what was under "
            "way"
        )
