"""`RecentUsage`: how many tokens a second the server computes now."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from attrs import define, field

from tinkex_server.store.rows import UsageKind

WINDOW = 30
"""The seconds over which rates are averaged."""


@define(eq=False)
class RecentUsage:
    """The amounts of the last seconds, in memory. It is bounded by the seconds, and by the owners
    that were active in them.
    """

    _seconds: deque[tuple[int, Counter[tuple[str, UsageKind]]]] = field(
        factory=deque[tuple[int, Counter[tuple[str, UsageKind]]]]
    )

    def add(self, owner: str, amounts: Mapping[UsageKind, int], now: float) -> None:
        second = int(now)
        self._drop(now)
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append((second, Counter()))
        for kind, amount in amounts.items():
            self._seconds[-1][1][owner, kind] += amount

    def per_second(self, owner: str | None, kind: UsageKind, now: float) -> float:
        """Returns the average amount a second of one owner, or of all."""
        self._drop(now)
        total = sum(
            amount
            for _, counts in self._seconds
            for (of, what), amount in counts.items()
            if what == kind and owner in (None, of)
        )
        return total / WINDOW

    def _drop(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW:
            self._seconds.popleft()
