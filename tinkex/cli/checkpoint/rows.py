"""The fields of a checkpoint, as the commands write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex.cli.output import Size

if TYPE_CHECKING:
    from tinkex.types import Checkpoint

FIELDS = (
    "path",
    "run",
    "kind",
    "name",
    "model",
    "time",
    "size_bytes",
    "public",
    "expires",
    "user_metadata",
)
COLUMNS = ("path", "time", "size_bytes", "public", "expires")
KINDS = ("weights", "sampler_weights", "external_weights")


def row_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns a checkpoint as a row of these fields."""
    from tinkex.types.checkpoint_path import split_path

    _, run, kind, name = split_path(checkpoint.tinker_path)
    size = checkpoint.size_bytes
    metadata = checkpoint.user_metadata
    return {
        "path": checkpoint.tinker_path,
        "run": run,
        "kind": kind or checkpoint.checkpoint_type,
        "name": name,
        "model": checkpoint.base_model,
        "time": checkpoint.time,
        "size_bytes": None if size is None else Size(size),
        "public": checkpoint.public,
        "expires": checkpoint.expires_at,
        "user_metadata": metadata.to_dict() if metadata else {},
    }
