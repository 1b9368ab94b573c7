"""The heartbeat of the engine process, sent by a thread of its own, and the stack dump before it
is killed.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Callable

from tinkex_server.engine.process.messages import Heartbeat

PERIOD = 1.0
"""The seconds between two heartbeats."""
DUMP_SIGNAL = getattr(signal, "SIGUSR1", None)
"""The signal that makes the process write the stacks of all threads to its standard error, even if
the interpreter is blocked. None on Windows.
"""


def start_heartbeat(send: Callable[[object], None]) -> None:
    """Starts to send heartbeats. They cease while the process is stopped, or while one thread holds
    the interpreter lock.
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
