"""The numbers of a model's requests that were refused at their arrival: their turn passes, so that
nobody waits for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from attrs import define, field

from tinkex_server.errors import Refused
from tinkex_server.jobs.lanes import Lanes

_SENT_AGAIN = frozenset({408, 409, 425, 429})
"""Statuses after which a client sends the same request again, so that its number is still to come.
"""


@define
class Refusals:
    """Refusals by model and number. To be used on the event loop's thread.

    A refused request takes its turn as a failure, and what its client sends after goes on. A client
    that gives the number to another request, instead of to none, has that one run when it comes.
    """

    _lanes: Lanes
    _told: defaultdict[str, dict[int, tuple[str, Refused]]] = field(
        factory=lambda: defaultdict(dict)
    )

    def note(self, model_id: str, number: int, fingerprint: str, refusal: Refused) -> None:
        """Lets the turn of this number in this model's lane pass, unless its client is to send it
        again.
        """
        if number >= 1 and 400 <= refusal.status < 500 and refusal.status not in _SENT_AGAIN:
            self._told[model_id][number] = (fingerprint, refusal)
            self._lanes.skip(model_id, number)

    def check(self, model_id: str, number: int, fingerprint: str) -> None:
        """Raises what a repeat of a refused request was told before, whatever has changed since."""
        told = self._told[model_id].get(number) if model_id in self._told else None
        if told and told[0] == fingerprint:
            raise told[1]

    def taken(self, model_id: str, number: int) -> None:
        """The number was given to a request that was taken on."""
        if model_id in self._told:
            self._told[model_id].pop(number, None)

    def forget(self, model_id: str) -> None:
        """No number of this model will be given again."""
        self._told.pop(model_id, None)


def named(fields: Mapping[str, object]) -> tuple[str, int] | None:
    """The model and the number that a body names, if it names both."""
    model_id, number = fields.get("model_id"), fields.get("seq_id")
    return (model_id, number) if isinstance(model_id, str) and type(number) is int else None
