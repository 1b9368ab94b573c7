"""What a server makes of the seq_id of a model's request: whether a repeat is known again, and when
its turn is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from attrs import define, field, frozen

from tinkex_server.jobs.futures import OutOfTurn, Ticket, Work

Turn = Literal["by number", "on arrival", "on arrival, refused out of turn"]


@frozen(kw_only=True)
class SeqIds:
    """The rule of one server; by default the contract's."""

    repeats: bool = True
    """Whether a repeat gets the promise of the first; else it is a request like any other."""
    per_operation: bool = False
    """Whether each operation has numbers of its own."""
    turn: Turn = "by number"
    conflict_status: int = 400
    """Of the refusal of a number that was used for another request."""

    def ticket(
        self, model_id: str, number: int | None, kind: str, fingerprint: str, owner: str
    ) -> Ticket:
        scope = f"{model_id} {kind}" if self.per_operation else model_id
        return Ticket(scope, number if self.repeats else None, kind, fingerprint, owner)

    def lane_number(self, number: int | None) -> int | None:
        """The number at whose turn the request runs; None: after all that came before it."""
        return number if self.turn == "by number" else None


@define
class Steps:
    """Where each model is, on a server that refuses what comes out of turn. Only a step that
    succeeds counts.
    """

    rule: SeqIds
    _done: defaultdict[str, int] = field(factory=lambda: defaultdict(int))

    def forget(self, model_id: str) -> None:
        self._done.pop(model_id, None)

    def checked(self, model_id: str, number: int | None, work: Work) -> Work:
        """The work, refused when it is not its turn as it begins. A request without a number is not
        checked.
        """
        if number is None or self.rule.turn != "on arrival, refused out of turn":
            return work

        async def run() -> bytes:
            expected = self._done[model_id] + 1
            if number != expected:
                raise OutOfTurn(f"expected {expected}, got {number}")
            result = await work()
            self._done[model_id] = number
            return result

        return run
