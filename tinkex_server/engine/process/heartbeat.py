"""Activity of life of the engine's process, from a thread of its own, whatever the engine does; and
its last words, when it is to be killed.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Callable

from tinkex_server.engine.process.messages import Heartbeat

PERIOD = 1.0
"""Seconds from one sign to the next."""
DUMP_SIGNAL = getattr(signal, "SIGUSR1", None)
"""The signal at which a process writes to its standard error where each thread is, even if the
interpreter is held up. None on Windows.
"""


def start_heartbeat(send: Callable[[object], None]) -> None:
    """Begins to. A process that is stopped, or whose interpreter one thread never lets go of, shows
    none.
    """
    if DUMP_SIGNAL is not None:
        faulthandler.register(DUMP_SIGNAL)
    threading.Thread(
        target=_send_heartbeats, args=(send,), name="tinkex-engine-heartbeat", daemon=True
    ).start()


def _send_heartbeats(send: Callable[[object], None]) -> None:
    while True:
        send(Heartbeat(time.process_time()))
        time.sleep(PERIOD)
