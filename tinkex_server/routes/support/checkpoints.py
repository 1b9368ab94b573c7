"""Checkpoints in URLs and in answers."""

from __future__ import annotations

from typing import Any

from tinkex_api.models import Checkpoint, UserMetadata

from tinkex_server.checkpoint_path import CHECKPOINT_TYPES, CheckpointPath
from tinkex_server.routes.support.endpoint import Call
from tinkex_server.routes.support.formatting import moment
from tinkex_server.store import CheckpointRow


def path_of(call: Call[Any]) -> CheckpointPath:
    """Returns the path of the checkpoint that the URL names."""
    return CheckpointPath(call.path["run_id"], call.path["kind"], call.path["name"])


def describe_checkpoint(row: CheckpointRow) -> Checkpoint:
    """Returns a checkpoint as answers describe it."""
    return Checkpoint(
        checkpoint_id=row.path.checkpoint_id,
        checkpoint_type=CHECKPOINT_TYPES[row.path.kind],
        time=moment(row.created_at),
        tinker_path=str(row.path),
        size_bytes=row.size_bytes,
        public=row.public,
        user_metadata=UserMetadata.from_dict(row.user_metadata) if row.user_metadata else None,
        expires_at=None if row.expires_at is None else moment(row.expires_at),
        base_model=row.base_model or None,
    )
