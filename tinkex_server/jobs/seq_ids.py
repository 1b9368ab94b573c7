"""The meaning of a seq_id on one kind of server: whether a repeat is recognized, and in which order
the requests of a model run.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from attrs import define, field, frozen

from tinkex_server.errors import Reason
from tinkex_server.jobs.requests import OutOfTurn, RequestIdentity

Turn = Literal["by number", "on arrival", "on arrival, refused out of turn"]


@frozen(kw_only=True)
class SeqIds:
    """The rule of one server; by default the contract's."""

    repeats: bool = True
    """Whether a repeat gets the promise of the first request; else it is a request like any other.
    """
    per_operation: bool = False
    """Whether each operation counts its own seq_ids."""
    turn: Turn = "by number"
    conflict: Reason = Reason.BAD_REQUEST
    """The reason of the refusal when a seq_id was used for another request."""

    def identify(
        self, model_id: str, seq_id: int | None, kind: str, fingerprint: str, owner: str
    ) -> RequestIdentity:
        """Returns the identity by which a repeat of a model's request is recognized."""
        scope = f"{model_id} {kind}" if self.per_operation else model_id
        return RequestIdentity(scope, seq_id if self.repeats else None, kind, fingerprint, owner)

    def lane_number(self, seq_id: int | None) -> int | None:
        """Returns the number at whose turn the request runs; None: it runs after all that arrived
        before it.
        """
        return seq_id if self.turn == "by number" else None


@define
class StepOrder:
    """The last seq_id of each model that succeeded, for a server that refuses requests out of
    order. Failed steps do not count.
    """

    rule: SeqIds
    _last: defaultdict[str, int] = field(factory=lambda: defaultdict(int))

    def forget(self, model_id: str) -> None:
        self._last.pop(model_id, None)

    def check(self, model_id: str, seq_id: int | None) -> None:
        """Raises `OutOfTurn` for a request that is not the model's next, on a server that asks for
        it. A request without a seq_id is always in order.
        """
        if seq_id is None or not self._refuses_out_of_turn:
            return
        expected = self._last[model_id] + 1
        if seq_id != expected:
            raise OutOfTurn(f"expected {expected}, got {seq_id}")

    def note_done(self, model_id: str, seq_id: int | None) -> None:
        """Notes that the request succeeded."""
        if seq_id is not None and self._refuses_out_of_turn:
            self._last[model_id] = seq_id

    @property
    def _refuses_out_of_turn(self) -> bool:
        return self.rule.turn == "on arrival, refused out of turn"
