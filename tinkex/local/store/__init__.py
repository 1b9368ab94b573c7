"""`Store`: all that the server remembers, in one SQLite file. Values in and out; a module for each table.

Example:
    with closing(Store(folder / "tinkex.db")) as store:
        store.sessions.get("s-1")
"""

from __future__ import annotations

from pathlib import Path

from tinkex.local.store.checkpoints import Checkpoints
from tinkex.local.store.custom_losses import CustomLosses
from tinkex.local.store.database import Database, StoreError
from tinkex.local.store.futures import StoredFutures
from tinkex.local.store.keys import Keys
from tinkex.local.store.models import Models
from tinkex.local.store.rows import (
    Category,
    CheckpointRow,
    CustomLossRow,
    EndedFuture,
    FutureRow,
    FutureState,
    KeyRow,
    ModelRow,
    ModelState,
    SamplerRow,
    SessionRow,
    StepRow,
)
from tinkex.local.store.samplers import Samplers
from tinkex.local.store.sessions import Sessions
from tinkex.local.store.steps import Steps

__all__ = [
    "Category",
    "CheckpointRow",
    "CustomLossRow",
    "EndedFuture",
    "FutureRow",
    "FutureState",
    "KeyRow",
    "ModelRow",
    "ModelState",
    "SamplerRow",
    "SessionRow",
    "StepRow",
    "Store",
    "StoreError",
]


class Store:
    """Opens `file`, making it if need be. Raises `StoreError` when it is not a database of this layout."""

    def __init__(self, file: Path) -> None:
        self._database = Database(file)
        self.keys = Keys(self._database)
        self.sessions = Sessions(self._database)
        self.models = Models(self._database)
        self.futures = StoredFutures(self._database)
        self.steps = Steps(self._database)
        self.checkpoints = Checkpoints(self._database)
        self.samplers = Samplers(self._database)
        self.custom_losses = CustomLosses(self._database)

    def recover(self, reason: str, now: float) -> None:
        """After a restart: what was pending has failed for `reason`, and no model is in memory."""
        with self._database.transaction():
            self.futures.fail_pending(reason, now)
            self.models.unload_all()

    def close(self) -> None:
        self._database.close()
