"""`ComputeThread`: the one thread on which an engine computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tinkex_server.engine.torch.core_sharing import CoreSharing

T = TypeVar("T")


class ComputeThread:
    """A thread that computes for all others, in the order in which they ask.

    torch must compute on one thread only. GNU's OpenMP keeps a team of threads for every thread
    that calls it, and once there are more of them than cores, they no longer wait for each other
    by spinning: each of the hundreds of parallel regions of a small step then waits for the system
    to wake a thread, and the step takes twice as long.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tinkex-compute")
        self._sharing: CoreSharing | None = None

    def share_cores(self) -> None:
        """Lets the threads of its team wait for each other in the way that suits the load of the
        machine. It is for work on the CPU.
        """
        if CoreSharing.possible():
            self._sharing = CoreSharing(self.run(threading.get_native_id))

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queues work. Raises `RuntimeError` after `close`."""
        if self._sharing:
            self._sharing.expect_work()
        return self._pool.submit(work)

    def run(self, work: Callable[[], T]) -> T:
        """Waits for the result of work, which must not come from this thread itself."""
        return self.submit(work).result()

    def run_in_turns(self, work: Generator[None, None, T]) -> T:
        """Waits for the result of work that lets others have their turn at every `yield`.

        Between two turns it must not depend on settings of the thread, such as torch's gradient
        mode.
        """
        while True:
            try:
                self.run(lambda: next(work))
            except StopIteration as ended:
                return ended.value

    def close(self) -> None:
        """Waits for all work that was queued."""
        self._pool.shutdown()
        if self._sharing:
            self._sharing.close()
