"""The seq_ids of requests that were refused on arrival: their turns are skipped, so that later
requests of the model do not wait for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from attrs import define, field

from tinkex_server.access.ownership import Access
from tinkex_server.errors import Reason, Refused
from tinkex_server.jobs.lanes import Lanes
from tinkex_server.store import Store

_SENT_AGAIN = frozenset(
    {
        Reason.CONFLICT,
        Reason.TOO_MANY_PENDING,
        Reason.SERVER_FAULT,
        Reason.UNAVAILABLE,
        Reason.STORAGE_FULL,
    }
)
"""Reasons after which a client sends the same request again, so that its seq_id is still to come.
"""


@define
class RefusedSeqIds:
    """Refusals by model and seq_id. To be used on the event loop's thread.

    A request without a seq_id has no turn, so nothing is kept of it.

    A refused request takes its turn as a failure, and the requests that its client sends after it
    run. If a client gives the seq_id to another request later, that request runs when it arrives.
    """

    _lanes: Lanes
    _store: Store
    _refusals: defaultdict[str, dict[int, tuple[str, Refused]]] = field(
        factory=lambda: defaultdict(dict)
    )

    def note(self, model_id: str, seq_id: int | None, fingerprint: str, refusal: Refused) -> None:
        """Skips the turn of this seq_id in the model's lane, unless the client is going to send the
        request again.
        """
        is_final = refusal.reason not in _SENT_AGAIN
        if is_final and seq_id is not None and seq_id >= 1:
            self._refusals[model_id][seq_id] = (fingerprint, refusal)
            self._lanes.skip(model_id, seq_id)

    def note_unread(self, access: Access, refusal: Refused, fields: Mapping[str, object]) -> None:
        """Skips the turn of a request whose body was refused as it was read. `fields` are those
        that could be read.

        No fingerprint is kept: the same bytes are refused again for the same reason.
        """
        model_id, seq_id = fields.get("model_id"), fields.get("seq_id")
        if not isinstance(model_id, str) or type(seq_id) is not int:
            return
        row = self._store.models.get(model_id)
        if row is not None and access.sees(row.owner) and row.in_memory:
            self.note(model_id, seq_id, "", refusal)

    def check(self, model_id: str, seq_id: int | None, fingerprint: str) -> None:
        """Raises the refusal of an earlier request of which this one is a repeat, whatever has
        changed since.
        """
        known = None if seq_id is None else self._refusals.get(model_id, {}).get(seq_id)
        if known and known[0] == fingerprint:
            raise known[1]

    def note_accepted(self, model_id: str, seq_id: int | None) -> None:
        """Notes that the seq_id now belongs to a request that was accepted."""
        if seq_id is not None and model_id in self._refusals:
            self._refusals[model_id].pop(seq_id, None)

    def forget(self, model_id: str) -> None:
        """Drops what is kept of a model that accepts no more requests."""
        self._refusals.pop(model_id, None)
