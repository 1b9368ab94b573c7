"""`Watchdog`: kills an engine's process that hangs, so that it goes the way of one that dies by
itself.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tinkex_server.engine.process.child import Child
from tinkex_server.engine.process.hang_detector import Observer, Patience
from tinkex_server.engine.process.heartbeat import PERIOD


class Watchdog:
    """Watches a child for as long as its `with` block takes, in which the child is read to its
    end.
    """

    verdict: str | None = None
    """Why it killed the child, in words that go on after "the engine's process"."""

    def __init__(self, child: Child, patience: Patience) -> None:
        self._child = child
        self._observer = Observer(patience, PERIOD)
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
            if verdict := self._observer.look(self._child.signs()):
                self.verdict = verdict
                self._child.kill()
                return
