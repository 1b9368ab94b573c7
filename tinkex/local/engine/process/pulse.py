"""Signs of life of the engine's process, from a thread of its own, whatever the engine does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tinkex.local.engine.process.messages import Alive

PERIOD = 1.0
"""Seconds from one sign to the next."""


def show_life(answer: Callable[[object], None]) -> None:
    """Begins to. A process that is stopped, or whose interpreter one thread never lets go of, shows none."""
    threading.Thread(target=_show, args=(answer,), name="tinkex-engine-pulse", daemon=True).start()


def _show(answer: Callable[[object], None]) -> None:
    while True:
        answer(Alive(time.process_time()))
        time.sleep(PERIOD)
