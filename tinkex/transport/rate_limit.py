"""Holds back all requests of a key after a 429, and then admits them gradually."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Hashable
from weakref import WeakValueDictionary

from attrs import define, field

from tinkex.threads import call_on_loop
from tinkex.transport.backoff import rate_limit_pause
from tinkex.waiting.clock import Clock

# concurrent requests after a pause; each success admits one more, so that they double per round
_FIRST_ADMITTED = 4
_NO_LIMIT = 4096  # concurrent requests that amount to no limit


@define(eq=False)
class _Waiter:
    """A request that waits in the queue."""

    loop: asyncio.AbstractEventLoop
    admitted: bool = False
    timed: bool = False
    """Whether it checks again by itself when the pause ends."""
    woken: asyncio.Future[None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.woken = self.loop.create_future()

    def wake(self) -> bool:
        """Wakes the request, from any thread. Returns False when its event loop is closed."""
        return call_on_loop(self.loop, _resolve, self.woken)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class RateLimiter:
    """A limiter that holds back requests after a 429, shared by all clients in the process with the
    same base URL and key.

    A 429 pauses all of them, and a success ends the pause. Afterwards requests are admitted in the
    order of their arrival: a few at once, then one more with each success. The limit is lifted when
    no request waits any more. It costs nothing until the first 429.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # clients may live on several event loops
        self._ends = 0.0
        self._streak = 0
        self._limit: int | None = None  # concurrent requests; None: no limit
        self._under_way = 0
        self._queue: deque[_Waiter] = deque()

    @property
    def is_open(self) -> bool:
        return self._limit is None

    def record_refusal(self, body_size: int, hint: float | None, clock: Clock) -> float:
        """Records a 429, and returns the pause in seconds."""
        with self._lock:
            self._streak += 1
            pause = rate_limit_pause(self._streak, body_size, hint, clock.random())
            self._ends = max(self._ends, clock.now() + pause)
            self._limit = _FIRST_ADMITTED
            for waiter in self._queue:
                if not waiter.timed:
                    waiter.wake()  # so that it sees the new end
            return pause

    async def enter(self, clock: Clock) -> bool:
        """Waits until a request may be sent. Returns whether `leave` must be called afterwards."""
        if self._limit is None:
            return False
        waiter = _Waiter(asyncio.get_running_loop())
        with self._lock:
            self._queue.append(waiter)
        try:
            while not await self._is_admitted(waiter, clock):
                pass
        except BaseException:
            self._withdraw(waiter)
            raise
        return True

    def leave(self, *, succeeded: bool) -> None:
        """Records the end of an admitted request."""
        with self._lock:
            self._under_way -= 1
            if succeeded and self._limit is not None:
                self._limit += 1
                if not self._queue and (not self._under_way or self._limit >= _NO_LIMIT):
                    self._limit = None
            self._admit()

    def record_success(self) -> None:
        """Records a successful request, which ends the pause."""
        if self._streak:
            with self._lock:
                self._streak, self._ends = 0, 0.0
                self._admit()

    async def _is_admitted(self, waiter: _Waiter, clock: Clock) -> bool:
        """Waits for the end of the pause or a call of `wake`, and returns whether the request is
        admitted.
        """
        with self._lock:
            left = self._ends - clock.now()
            if left <= 0:
                self._ends = 0.0
                self._admit()
            if waiter.admitted:
                return True
            waiter.woken, waiter.timed = waiter.loop.create_future(), left > 0
        if left > 0:
            await clock.sleep_unless(waiter.woken, left)
        else:
            await waiter.woken
        return waiter.admitted

    def _admit(self) -> None:
        """Admits as many waiting requests as the limit allows."""
        while (
            self._queue
            and not self._ends
            and (self._limit is None or self._under_way < self._limit)
        ):
            waiter = self._queue.popleft()
            waiter.admitted = waiter.wake()
            self._under_way += waiter.admitted

    def _withdraw(self, waiter: _Waiter) -> None:
        """Removes a cancelled request, and admits the next in its stead."""
        with self._lock:
            if waiter.admitted:
                self._under_way -= 1
            elif waiter in self._queue:
                self._queue.remove(waiter)
            self._admit()


_limiters: WeakValueDictionary[tuple[str, Hashable], RateLimiter] = WeakValueDictionary()
_limiters_lock = threading.Lock()


def rate_limiter_for(base_url: str, api_key: Hashable) -> RateLimiter:
    """Returns the limiter of a base URL and key (or source of keys). It is kept as long as a client
    uses it.
    """
    with _limiters_lock:
        return _limiters.setdefault((base_url, api_key), RateLimiter())
