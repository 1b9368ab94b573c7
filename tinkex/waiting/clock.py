"""Time and chance, in one place, so that a test can hold both."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from asyncio import TimerHandle
from collections.abc import Callable


class Clock:
    """The real ones. A test's subclass moves time by hand and draws what it likes."""

    def now(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def sleep_unless(self, woken: asyncio.Future[None], seconds: float) -> None:
        """Returns after so many seconds, or as soon as `woken` is done."""
        sleep = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait((woken, sleep), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Calls it on the running loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    def random(self) -> float:
        """In [0, 1)."""
        return random.random()

    def random_below(self, limit: int) -> int:
        """A whole number from 0, by which processes, forks too, can be told apart."""
        return secrets.randbelow(limit)

    def new_id(self) -> str:
        """32 hexadecimal digits that no other has."""
        return f"{self.random_below(2**128):032x}"
