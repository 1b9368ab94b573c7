"""The window after a 429 in which nobody who shares the key sends, and the gradual start after
it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Hashable
from weakref import WeakValueDictionary

from attrs import define, field

from tinkex.transport.backoff import rate_limit_pause
from tinkex.waiting.clock import Clock

# requests at once when a window has ended; one more with each that succeeds, so twice as many every
# round
_FIRST_ADMITTED = 4
_WIDE_OPEN = 4096  # requests at once that are as good as no limit
_RECENT = 10.0  # seconds after a 429 in which large requests should be made smaller


@define(eq=False)
class _Place:
    """One request's in the queue before the gate."""

    loop: asyncio.AbstractEventLoop
    admitted: bool = False
    timed: bool = False
    """Whether it looks again by itself, at the end of the window."""
    called: asyncio.Future[None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.called = self.loop.create_future()

    def call(self) -> bool:
        """Wakes it, from any thread; False when its event loop is closed."""
        try:
            self.loop.call_soon_threadsafe(_resolve, self.called)
        except RuntimeError:
            return False
        return True


def _resolve(called: asyncio.Future[None]) -> None:
    if not called.done():
        called.set_result(None)


class RateLimitWindow:
    """Shared by all clients of one (base URL, key) in the process: a 429 to one holds them all, a
    success clears it.

    After a window requests are let in gradually, first come, first served: a few at once, then one
    more with each that succeeds. The gate opens for good when nobody waits before it. Until a first
    429, and then again, it costs nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # clients may live on several event loops
        self._ends = 0.0
        self._streak = 0
        self._refused_at: float | None = None
        self._limit: int | None = None  # requests under way at once; None: the gate is open
        self._under_way = 0
        self._queue: deque[_Place] = deque()

    @property
    def is_open(self) -> bool:
        return self._limit is None

    def recently_refused(self, clock: Clock) -> bool:
        """Whether a 429 came in the last seconds."""
        return self._refused_at is not None and clock.now() - self._refused_at < _RECENT

    def record_refusal(self, body_size: int, hint: float | None, clock: Clock) -> float:
        """Records a 429; returns the pause in seconds."""
        with self._lock:
            self._streak += 1
            pause = rate_limit_pause(self._streak, body_size, hint, clock.random())
            self._refused_at = clock.now()
            self._ends = max(self._ends, self._refused_at + pause)
            self._limit = _FIRST_ADMITTED
            for place in self._queue:
                if not place.timed:
                    place.call()  # to see the new end
            return pause

    async def enter(self, clock: Clock) -> bool:
        """Returns when sending is allowed: at once outside a window. True when `leave` has to be
        called afterwards.
        """
        if self._limit is None:
            return False
        place = _Place(asyncio.get_running_loop())
        with self._lock:
            self._queue.append(place)
        try:
            while not await self._is_admitted(place, clock):
                pass
        except BaseException:
            self._give_up(place)
            raise
        return True

    def leave(self, *, succeeded: bool) -> None:
        """One that was let in is done."""
        with self._lock:
            self._under_way -= 1
            if succeeded and self._limit is not None:
                self._limit += 1
                if not self._queue and (not self._under_way or self._limit >= _WIDE_OPEN):
                    self._limit = None
            self._admit()

    def record_success(self) -> None:
        """A request of this key was answered well: the window is over."""
        if self._streak:
            with self._lock:
                self._streak, self._ends = 0, 0.0
                self._admit()

    async def _is_admitted(self, place: _Place, clock: Clock) -> bool:
        """Waits for the window's end, or to be called; whether it may go then."""
        with self._lock:
            left = self._ends - clock.now()
            if left <= 0:
                self._ends = 0.0
                self._admit()
            if place.admitted:
                return True
            place.called, place.timed = place.loop.create_future(), left > 0
        if left > 0:
            await clock.sleep_unless(place.called, left)
        else:
            await place.called
        return place.admitted

    def _admit(self) -> None:
        """Lets in those whose turn it is."""
        while (
            self._queue
            and not self._ends
            and (self._limit is None or self._under_way < self._limit)
        ):
            place = self._queue.popleft()
            place.admitted = place.call()
            self._under_way += place.admitted

    def _give_up(self, place: _Place) -> None:
        """Its request was cancelled while it waited: the next one gets what it was given."""
        with self._lock:
            if place.admitted:
                self._under_way -= 1
            elif place in self._queue:
                self._queue.remove(place)
            self._admit()


_windows: WeakValueDictionary[tuple[str, Hashable], RateLimitWindow] = WeakValueDictionary()
_windows_lock = threading.Lock()


def window_for(base_url: str, api_key: Hashable) -> RateLimitWindow:
    """The window of this (base URL, key, or what gives it), kept for as long as a client uses
    it.
    """
    with _windows_lock:
        return _windows.setdefault((base_url, api_key), RateLimitWindow())
