"""`Refusals`: the requests that were refused lately, so that a person at the status page sees why a
program stopped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from attrs import define, field, frozen

from tinkex_server.access.ownership import Access

_MOST = 200
"""The most kinds of refusals that are kept, of all owners together."""
_LONGEST = 2000
"""The most letters of a reason that are kept."""


@frozen
class Refusal:
    """Requests that were refused for one reason."""

    scope: str
    """The id of the model or the session that they named; empty if they named none."""
    operation: str
    reason: str
    count: int
    at: float
    """The time of the last of them, in seconds since 1970."""


@define(eq=False)
class Refusals:
    """The refusals by owner and reason, in memory. To be used on the event loop's thread."""

    _kept: OrderedDict[tuple[str, str, str, str], Refusal] = field(
        factory=OrderedDict[tuple[str, str, str, str], Refusal]
    )
    changes: int = 0
    """The number of refusals since the start."""

    def add(self, owner: str, scope: str, operation: str, reason: str, now: float) -> None:
        """Notes a refusal, and forgets the one whose like has not occurred for longest."""
        key = owner, scope, operation, reason[:_LONGEST]
        before = self._kept.pop(key, None)
        count = before.count + 1 if before else 1
        self._kept[key] = Refusal(scope, operation, reason[:_LONGEST], count, now)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        self.changes += 1

    def newest(self, access: Access, scope: str | None = None) -> Sequence[Refusal]:
        """Returns the refusals that a caller may see, of one scope or of all, the newest first."""
        return [
            refusal
            for (owner, *_), refusal in reversed(self._kept.items())
            if access.sees(owner) and scope in (None, refusal.scope)
        ]
