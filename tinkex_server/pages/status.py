"""The values that the status page shows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from attrs import frozen

from tinkex_server.access.ownership import Access
from tinkex_server.data_dir.sizes import folder_size
from tinkex_server.jobs.requests import PendingRequest
from tinkex_server.pages.curve import Curve, draw
from tinkex_server.state import ServerState
from tinkex_server.store import CheckpointRow, ModelRow, RunQuery, SessionRow

_LISTED = 20  # sessions, and runs
_PENDING = 50
_POINTS = 300  # for each curve
_CHECKPOINTS = 5  # for each run


@frozen
class Run:
    """A training run with its losses and checkpoints."""

    row: ModelRow
    steps: int
    curve: Curve | None
    loss: float | None
    """The loss per token of the newest step."""
    checkpoints: Sequence[CheckpointRow]
    """The newest checkpoints."""
    checkpoints_in_all: int


@frozen
class Disk:
    """The data folder, with the bytes that it uses and those that are free."""

    folder: str
    used: int
    free: int


@frozen
class Status:
    """The data that one caller may see, newest first, with the total of each kind."""

    sessions: Sequence[SessionRow]
    runs: Sequence[Run]
    runs_in_all: int
    pending: Sequence[PendingRequest]
    pending_in_all: int
    checkpoints_size: int


def describe_engine(ready: Future[str]) -> str:
    """Describes the engine: what it runs on, that it is starting, or why it could not start."""
    if not ready.done():
        return "is starting; requests wait for it"
    return str(ready.exception() or ready.result())


def measure_disk(folder: Path) -> Disk:
    """Measures the data folder. This may take a while, and belongs in a worker thread."""
    return Disk(str(folder), folder_size(folder), shutil.disk_usage(folder).free)


def status(state: ServerState, access: Access) -> Status:
    store = state.store
    rows = store.models.page(RunQuery(access.owner), _LISTED, 0)
    pending = state.futures.pending(access)
    return Status(
        sessions=[
            access.session(session_id)
            for session_id in store.sessions.ids(access.owner, _LISTED, 0)
        ],
        runs=[_run(state, row) for row in rows],
        runs_in_all=store.models.count(RunQuery(access.owner)),
        pending=pending[:_PENDING],
        pending_in_all=len(pending),
        checkpoints_size=store.checkpoints.size(access.owner),
    )


def _run(state: ServerState, row: ModelRow) -> Run:
    steps = state.store.steps.curve(row.model_id, _POINTS)
    return Run(
        row=row,
        steps=steps[-1].number if steps else 0,
        curve=draw(steps),
        loss=steps[-1].loss if steps else None,
        checkpoints=state.store.checkpoints.of_run(row.model_id, _CHECKPOINTS),
        checkpoints_in_all=state.store.checkpoints.count_of_run(row.model_id),
    )
