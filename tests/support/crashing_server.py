"""A server that kills itself at the step of a save that is named like the checkpoint: before or
after its row is written.
"""

from __future__ import annotations

import os
import signal

from tests.support.counting_engine import main
from tinkex_server.store.checkpoints import Checkpoints
from tinkex_server.store.rows import CheckpointRow

_put = Checkpoints.put


def put(checkpoints: Checkpoints, row: CheckpointRow) -> None:
    before = checkpoints.get(row.path)
    if before and row.path.name == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    _put(checkpoints, row)
    if before and row.path.name == "after":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Checkpoints.put = put
    main()
