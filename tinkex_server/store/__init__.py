"""`Store`: everything the server remembers, in one SQLite file. It takes and returns plain values,
and has one module for each table.

Example:
    with closing(Store(folder / "tinkex.db")) as store:
        store.sessions.get("s-1")
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

from tinkex_server.store.audit import AuditLog
from tinkex_server.store.checkpoints import Checkpoints
from tinkex_server.store.custom_losses import CustomLosses
from tinkex_server.store.database import Database, StoreError, StoreWriteError
from tinkex_server.store.futures import StoredFutures
from tinkex_server.store.keys import Keys
from tinkex_server.store.models import Models
from tinkex_server.store.origins import Origins
from tinkex_server.store.rows import (
    FINISH_REASONS,
    RUN_GROUPS,
    AuditRow,
    Batch,
    Category,
    CheckpointQuery,
    CheckpointRow,
    CustomLossRow,
    EndedFuture,
    Ending,
    EnrolledKey,
    FailureRow,
    FoundSession,
    FutureRow,
    FutureState,
    KeyRow,
    ListedRun,
    ModelRow,
    ModelState,
    OriginRow,
    RunOrder,
    RunPart,
    RunQuery,
    RunSearch,
    RunStatus,
    SamplerRow,
    SessionQuery,
    SessionRow,
    StepRow,
    StorageRow,
    StoredSpan,
    TimedFuture,
    UsageKind,
    UsageRow,
)
from tinkex_server.store.run_list import RunList
from tinkex_server.store.samplers import Samplers
from tinkex_server.store.sessions import Sessions
from tinkex_server.store.steps import Steps
from tinkex_server.store.usage import Usage

__all__ = [
    "FINISH_REASONS",
    "RUN_GROUPS",
    "AuditRow",
    "Batch",
    "Category",
    "CheckpointQuery",
    "CheckpointRow",
    "CustomLossRow",
    "EndedFuture",
    "Ending",
    "EnrolledKey",
    "FailureRow",
    "FoundSession",
    "FutureRow",
    "FutureState",
    "KeyRow",
    "ListedRun",
    "ModelRow",
    "ModelState",
    "OriginRow",
    "RunOrder",
    "RunPart",
    "RunQuery",
    "RunSearch",
    "RunStatus",
    "SamplerRow",
    "SessionQuery",
    "SessionRow",
    "StepRow",
    "StorageRow",
    "Store",
    "StoreError",
    "StoreWriteError",
    "StoredSpan",
    "TimedFuture",
    "UsageKind",
    "UsageRow",
]


class Store:
    """The tables of one database file."""

    def __init__(self, file: Path) -> None:
        """Opens `file`, creating it if there is none. Raises `StoreError` if it is not a database
        of this release.
        """
        self._database = Database(file)
        self.keys = Keys(self._database)
        self.sessions = Sessions(self._database)
        self.models = Models(self._database)
        self.run_list = RunList(self._database)
        self.origins = Origins(self._database)
        self.futures = StoredFutures(self._database)
        self.steps = Steps(self._database)
        self.checkpoints = Checkpoints(self._database)
        self.samplers = Samplers(self._database)
        self.custom_losses = CustomLosses(self._database)
        self.audit = AuditLog(self._database)
        self.usage = Usage(self._database)

    @property
    def changes(self) -> int:
        """A number that grows with everything that is written."""
        return self._database.changes

    def recover(self, reason: str, now: float) -> None:
        """Notes after a restart that pending requests failed for `reason`, and that no model is in
        memory.
        """
        with self._database.transaction():
            self.futures.fail_pending(reason, now)
            self.models.mark_all_lost()

    def folders(self) -> set[str]:
        """Returns the names of the folders that are in use."""
        return self.checkpoints.folders() | self.samplers.folders()

    def folders_ever_used(self) -> set[str]:
        """Returns the names of the folders that are in use, or were used by sessions that ended."""
        return self.checkpoints.folders() | self.samplers.folders_ever_used()

    def compact(self) -> None:
        """Shrinks the file by what was deleted."""
        self._database.run("VACUUM")

    def flush(self) -> Awaitable[None]:
        """Returns when everything written so far would survive the end of this process. A client is
        told of a write only after this. Raises `StoreWriteError`.
        """
        return self._database.flush()

    def close(self) -> None:
        self._database.close()
