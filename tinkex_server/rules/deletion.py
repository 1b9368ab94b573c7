"""The deletion of a checkpoint, whoever asks for it."""

from __future__ import annotations

import time

from tinkex_server.data_dir import manifests
from tinkex_server.state import CommonState
from tinkex_server.store import CheckpointRow


async def delete_checkpoint(state: CommonState, row: CheckpointRow) -> None:
    """Deletes a checkpoint of the caller, with its files once nothing reads them."""
    manifests.remove(state.folders.path(row.folder))
    state.store.checkpoints.delete(row.path)
    state.store.audit.add(
        row.owner, "checkpoint.deleted", {"tinker_path": str(row.path)}, time.time()
    )
    await state.folders.remove_unused(state.store.folders)
