"""The fields of a session, as the commands write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex.cli.output import Size

if TYPE_CHECKING:
    from tinkex.types import SessionSummary

FIELDS = (
    "id",
    "name",
    "created",
    "status",
    "checkpoints",
    "size_bytes",
    "owner",
    "project",
    "user_metadata",
)
COLUMNS = ("id", "name", "created", "status", "checkpoints", "size_bytes")


def row_of(session: SessionSummary) -> dict[str, Any]:
    """Returns a session as a row of these fields."""
    size = session.checkpoint_storage_bytes
    metadata = session.user_metadata.to_dict() if session.user_metadata else {}
    return {
        "id": session.session_id,
        "name": session.display_name or metadata.get("name"),
        "created": session.created_at,
        "status": session.status.type if session.status else None,
        "checkpoints": session.checkpoints_count,
        "size_bytes": None if size is None else Size(size),
        "owner": session.owner,
        "project": session.project_id,
        "user_metadata": metadata,
    }


def row_of_id(session_id: str) -> dict[str, Any]:
    """Returns the row of a session of which the server tells only the id."""
    return {**dict.fromkeys(FIELDS), "id": session_id, "user_metadata": {}}
