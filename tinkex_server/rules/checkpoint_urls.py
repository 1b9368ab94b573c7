"""The URLs of checkpoints and of their files."""

from __future__ import annotations

from tinkex_server.access.signed_urls import Signer, signed_url
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.wire.scope import PREFIX

CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"
"""The pattern of a checkpoint's route."""


def archive_url(signer: Signer, origin: str, path: CheckpointPath, expires: int) -> str:
    """Returns a signed URL by which a checkpoint's tar is downloaded without a key."""
    return signed_url(signer, origin, f"{checkpoint_url(path)}/download", expires)


def file_url(signer: Signer, origin: str, path: CheckpointPath, file: str, expires: int) -> str:
    """Returns a signed URL by which one file of a checkpoint is downloaded without a key."""
    return signed_url(signer, origin, f"{checkpoint_url(path)}/files/{file}", expires)


def checkpoint_url(path: CheckpointPath) -> str:
    """Returns the path of a checkpoint's URL."""
    return PREFIX + CHECKPOINT.format(run_id=path.run_id, kind=path.kind, name=path.name)
