"""Runs work in lanes: one thing at a time in each, all lanes side by side, engine calls in worker
threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from attrs import frozen

from tinkex_server.jobs.turns import Turns

logger = logging.getLogger("tinkex.local")

P = ParamSpec("P")
R = TypeVar("R")


@frozen
class Job:
    """What a lane runs. `run` keeps its own outcome, under `request_id` (None: nobody asks for
    it).
    """

    request_id: str | None
    run: Callable[[], Awaitable[None]]


class LanesClosed(Exception):
    """No call can be made any more: the server ends."""


class Lanes:
    """All lanes of a server, a model's or a sampler's under its id. To be used on the event loop's
    thread.
    """

    def __init__(self) -> None:
        self._turns: defaultdict[str, Turns[Job]] = defaultdict(Turns)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pool = ThreadPoolExecutor(thread_name_prefix="tinkex-engine")

    def put(self, lane: str, number: int | None, job: Job) -> None:
        """Queues a job; see `Turns` for the order."""
        self._turns[lane].put(number, job)
        self._start(lane)

    def skip(self, lane: str, number: int) -> None:
        """Has no job wait for this number; see `Turns.skip`."""
        self._turns[lane].skip(number)
        self._start(lane)

    def _start(self, lane: str) -> None:
        if lane not in self._running:
            task = asyncio.get_running_loop().create_task(self._run(lane))
            self._running[lane] = task

    def forget(self, lane: str) -> None:
        """No number will be given in it again."""
        self._turns.pop(lane, None)

    def is_awaited(self, lane: str, number: int | None) -> bool:
        """Whether others of the lane wait for this number."""
        return lane in self._turns and self._turns[lane].is_awaited(number)

    def waits_for(self, lane: str, number: int | None) -> int | None:
        return self._turns[lane].waits_for(number) if lane in self._turns else None

    def give_up(self, lane: str, number: int) -> None:
        """Takes out a job that waits for a number; see `Turns.give_up`."""
        self._turns[lane].give_up(number)

    def drop_early(self, lane: str) -> list[Job]:
        """Takes out the jobs whose turn can no longer come."""
        return self._turns[lane].drop_early() if lane in self._turns else []

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns, run in a worker thread. Raises `LanesClosed` once there are
        none.
        """
        try:
            running = asyncio.get_running_loop().run_in_executor(
                self._pool, partial(function, *args, **kwargs)
            )
        except RuntimeError as error:  # the lanes were closed, or the interpreter ends
            raise LanesClosed from error
        return await running

    async def close(self) -> None:
        """Drops what waits, and returns when the calls under way have ended: a thread cannot be
        interrupted.
        """
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def _run(self, lane: str) -> None:
        try:
            while (job := self._turns[lane].take()) is not None:
                await self._run_job(lane, job)
        finally:
            del self._running[lane]
            if self._turns[lane].is_new:
                self.forget(lane)

    async def _run_job(self, lane: str, job: Job) -> None:
        try:
            await job.run()
        except Exception:  # the lane goes on, whatever becomes of one job
            if not threading.main_thread().is_alive():
                return  # the interpreter is exiting, and no worker can be had any more
            logger.exception("a job in lane %s failed (request %s)", lane, job.request_id)
