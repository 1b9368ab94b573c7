"""`Watchdog`: kills an engine process that hangs, so that it is handled like a crash."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tinkex_server.engine.process.child import Child
from tinkex_server.engine.process.hang_detector import HangDetector, HangTimeouts
from tinkex_server.engine.process.heartbeat import PERIOD


class Watchdog:
    """A context manager that watches a child while its `with` block reads from it."""

    kill_reason: str | None = None
    """The reason for killing the child, as a phrase that follows "the engine process"; None if it
    was not killed.
    """

    def __init__(self, child: Child, hang_timeouts: HangTimeouts) -> None:
        self._child = child
        self._detector = HangDetector(hang_timeouts, PERIOD)
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="tinkex-engine-watchdog", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD):
            if kill_reason := self._detector.observe(self._child.activity()):
                self.kill_reason = kill_reason
                self._child.kill()
                return
