"""Clocks for tests: time that is moved by hand, and pauses that end at once."""

from __future__ import annotations

import asyncio

import pytest

from tinkex.waiting.clock import Clock


class HandClock(Clock):
    """A clock that only sleeping moves, and that adds no jitter."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)

    def random(self) -> float:
        return 0.0


class NoPause:
    """A patch that makes every pause of the client end at once, and keeps its seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []

        async def sleep(clock: object, seconds: float) -> None:
            self.seconds.append(seconds)

        monkeypatch.setattr("tinkex.waiting.clock.Clock.sleep", sleep)
