"""Time and random numbers in one place, so that tests can control both."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from asyncio import TimerHandle
from collections.abc import Callable


class Clock:
    """The real time and real random numbers. Tests replace them in a subclass."""

    def now(self) -> float:
        """Returns the time in seconds, on a monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def sleep_unless(self, woken: asyncio.Future[None], seconds: float) -> None:
        """Sleeps until the seconds have passed or `woken` is done."""
        sleep = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait((woken, sleep), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Schedules a callback on the running event loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    def random(self) -> float:
        """Returns a random number in [0, 1)."""
        return random.random()

    def random_below(self, limit: int) -> int:
        """Returns a random integer in [0, limit), which differs between a process and its forks."""
        return secrets.randbelow(limit)

    def new_id(self) -> str:
        """Returns a unique id of 32 hexadecimal digits."""
        return secrets.token_hex(16)
