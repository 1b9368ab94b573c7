"""The window after a 429 in which nobody who shares the key sends."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from tinkex.transport.backoff import rate_limit_pause
from tinkex.transport.clock import Clock


class RateLimitWindow:
    """Shared by all clients of one (base URL, key) in the process: a 429 to one holds them all, a success clears it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # clients may live on several event loops
        self._ends = 0.0
        self._streak = 0

    def refused(self, body_size: int, hint: float | None, clock: Clock) -> float:
        """Records a 429; returns the pause in seconds."""
        with self._lock:
            self._streak += 1
            pause = rate_limit_pause(self._streak, body_size, hint, clock.random())
            self._ends = max(self._ends, clock.now() + pause)
            return pause

    def succeeded(self) -> None:
        if self._streak:
            with self._lock:
                self._streak, self._ends = 0, 0.0

    async def wait(self, clock: Clock) -> None:
        """Returns when sending is allowed: at once outside a window."""
        while (left := self._ends - clock.now()) > 0:
            await clock.sleep(left)


_windows: WeakValueDictionary[tuple[str, str | None], RateLimitWindow] = WeakValueDictionary()
_windows_lock = threading.Lock()


def window_for(base_url: str, api_key: str | None) -> RateLimitWindow:
    """The window of this (base URL, key), kept for as long as a client uses it."""
    with _windows_lock:
        return _windows.setdefault((base_url, api_key), RateLimitWindow())
