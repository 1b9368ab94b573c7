"""`Interrupts`: the first Ctrl-C asks a run to save and end, the second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which SIGINT or SIGTERM sets `asked`, and only a second one raises
    `KeyboardInterrupt`.

    Outside the main thread, where Python handles no signals, `asked` can only be set by `ask`.
    """

    def __init__(self, on_first: Callable[[], object]) -> None:
        self.asked = False
        self._on_first = on_first
        self._before: dict[signal.Signals, Any] = {}

    def ask(self) -> None:
        """Asks the run to save and end."""
        self.asked = True
        self._on_first()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.ask()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
