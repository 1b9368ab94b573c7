"""`Turns`: the order in which the requests of one model run. Plain values: no clock, no lock, no
socket.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue that hands out numbered items in the order 1, 2, 3, without a gap: an item that
    arrives early waits for the numbers before it.

    An item without a number is queued behind all items that do not wait for a missing number.
    """

    def __init__(self) -> None:
        self._ready: deque[T] = deque()
        self._early: dict[int, T] = {}
        self._skipped: set[int] = set()
        self._next = 1

    def put(self, number: int | None, item: T) -> None:
        """Queues an item. A number is used once only, or once more after it was skipped."""
        if number is None:
            self._ready.append(item)
            return
        was_skipped = number in self._skipped
        self._skipped.discard(number)
        if was_skipped and number < self._next:  # its turn has passed
            self._ready.append(item)
            return
        self._early[number] = item
        self._advance()

    def skip(self, number: int) -> None:
        """Marks a number as one that does not come, so that no item waits for it. A number that is
        in use stays as it is.
        """
        if number >= self._next and number not in self._early:
            self._skipped.add(number)
            self._advance()

    def _advance(self) -> None:
        while self._next in self._early or self._next in self._skipped:
            if self._next in self._early:
                self._ready.append(self._early.pop(self._next))
            self._next += 1

    def take(self) -> T | None:
        """Removes and returns the item whose turn it is, or returns None."""
        return self._ready.popleft() if self._ready else None

    @property
    def is_new(self) -> bool:
        """Whether the queue is empty and no number was ever used."""
        return self._next == 1 and not self._ready and not self._early

    def is_awaited(self, number: int | None) -> bool:
        """Returns whether items wait for this number."""
        return number == self._next and bool(self._early)

    def waits_for(self, number: int | None) -> int | None:
        """Returns the missing number that the item with this number waits for, or None."""
        return self._next if number in self._early else None

    def give_up(self, number: int) -> None:
        """Removes the item with this number, which waits for a missing number, and skips its own
        number.
        """
        del self._early[number]
        self._skipped.add(number)

    def drop_early(self) -> list[T]:
        """Removes and returns the items that wait for a missing number."""
        return [self._early.pop(number) for number in sorted(self._early)]
