"""`Lanes`: run jobs one at a time within a lane, and all lanes side by side; engine calls run in
worker threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar

from attrs import frozen

from tinkex_server.jobs.turns import Turns
from tinkex_server.lasting_pool import LastingPool

logger = logging.getLogger("tinkex.local")

P = ParamSpec("P")
R = TypeVar("R")


@frozen
class Job:
    """A piece of work for a lane."""

    request_id: str | None
    """The request under which `run` stores its outcome; None for work without one."""
    run: Callable[[], Awaitable[None]]


class LanesClosed(Exception):
    """The server is shutting down and makes no more calls of the engine."""


class Lanes:
    """The lanes of a server, by the id of the model, or of another thing that they serve. To be
    used on the event loop's thread.
    """

    def __init__(self, *, overlapping: bool = False) -> None:
        """Makes lanes. With `overlapping` a job begins as soon as the one before it has begun and
        waits for something: the order in which jobs begin is then all that matters.
        """
        self._overlapping = overlapping
        self._begun: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[str, Turns[Job]] = defaultdict(Turns)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pool = LastingPool(thread_name_prefix="tinkex-engine")

    def put(self, lane: str, number: int | None, job: Job) -> None:
        """Queues a job; see `Turns` for the order."""
        self._turns[lane].put(number, job)
        self._start(lane)

    def skip(self, lane: str, number: int) -> None:
        """Skips this number, so that no job waits for it; see `Turns.skip`."""
        self._turns[lane].skip(number)
        self._start(lane)

    def _start(self, lane: str) -> None:
        if lane not in self._running:
            task = asyncio.get_running_loop().create_task(self._run(lane))
            self._running[lane] = task

    def forget(self, lane: str) -> None:
        """Drops what is kept of a lane that gets no more jobs."""
        self._turns.pop(lane, None)

    def is_awaited(self, lane: str, number: int | None) -> bool:
        """Returns whether other jobs of the lane wait for this number."""
        return lane in self._turns and self._turns[lane].is_awaited(number)

    def waits_for(self, lane: str, number: int | None) -> int | None:
        return self._turns[lane].waits_for(number) if lane in self._turns else None

    def give_up(self, lane: str, number: int) -> None:
        """Removes a job that waits for a missing number; see `Turns.give_up`."""
        self._turns[lane].give_up(number)

    def drop_early(self, lane: str) -> list[Job]:
        """Removes and returns the jobs that wait for a missing number."""
        return self._turns[lane].drop_early() if lane in self._turns else []

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs `function` in a worker thread and returns its result. Raises `LanesClosed` once the
        server shuts down.
        """
        try:
            running = asyncio.get_running_loop().run_in_executor(
                self._pool, partial(function, *args, **kwargs)
            )
        except RuntimeError as error:  # the lanes were closed
            raise LanesClosed from error
        return await running

    async def close(self) -> None:
        """Drops the jobs that wait, and waits for the calls under way to end: a thread cannot be
        interrupted.
        """
        tasks = [*self._running.values(), *self._begun]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def _run(self, lane: str) -> None:
        try:
            while (job := self._turns[lane].take()) is not None:
                if self._overlapping:
                    self._begin_job(lane, job)
                else:
                    await self._run_job(lane, job)
        finally:
            del self._running[lane]
            if self._turns[lane].is_new:
                self.forget(lane)

    def _begin_job(self, lane: str, job: Job) -> None:
        """Starts a job. Tasks begin in the order in which they are created."""
        task = asyncio.get_running_loop().create_task(self._run_job(lane, job))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def _run_job(self, lane: str, job: Job) -> None:
        try:
            await job.run()
        except Exception:  # a job that fails does not stop the lane
            if not threading.main_thread().is_alive():
                return  # the interpreter is exiting: no worker thread can be started any more
            logger.exception("a job in lane %s failed (request %s)", lane, job.request_id)
