"""Signs of life of the engine's process, from a thread of its own, whatever the engine does; and
its last words, when it is to be killed.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Callable

from tinkex_server.engine.process.messages import Alive

PERIOD = 1.0
"""Seconds from one sign to the next."""
LAST_WORDS = getattr(signal, "SIGUSR1", None)
"""The signal at which a process writes to its standard error where each thread is, even if the
interpreter is held up. None on Windows.
"""


def show_life(answer: Callable[[object], None]) -> None:
    """Begins to. A process that is stopped, or whose interpreter one thread never lets go of, shows
    none.
    """
    if LAST_WORDS is not None:
        faulthandler.register(LAST_WORDS)
    threading.Thread(target=_show, args=(answer,), name="tinkex-engine-pulse", daemon=True).start()


def _show(answer: Callable[[object], None]) -> None:
    while True:
        answer(Alive(time.process_time()))
        time.sleep(PERIOD)
