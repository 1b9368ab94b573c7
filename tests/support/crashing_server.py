"""A patch by which a server kills itself at the step of a save that is named like the checkpoint:
before or after its row is written.
"""

from __future__ import annotations

import os
import signal

from tinkex_server.store.checkpoints import Checkpoints
from tinkex_server.store.rows import CheckpointRow

_put = Checkpoints.put


def crash_at_saves() -> None:
    """Makes this process such a server."""
    Checkpoints.put = _put_and_crash


def _put_and_crash(checkpoints: Checkpoints, row: CheckpointRow) -> None:
    before = checkpoints.get(row.path)
    if before and row.path.name == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    _put(checkpoints, row)
    if before and row.path.name == "after":
        os.kill(os.getpid(), signal.SIGKILL)
